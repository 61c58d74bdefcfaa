"""Runs federations: experiments, tasks, engines, reports and the command line."""

if __name__ != "hqde_fl.simulations":  # the same classes under two names would not be equal
    raise ImportError(
        "import hqde_fl.simulations: the folder simulations/ is a part of the package hqde_fl"
    )
