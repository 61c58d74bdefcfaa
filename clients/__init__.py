"""Flower's client end: tasks, local training, ensemble members and the faults of faulty clients."""

if __name__ != "hqde_fl.clients":  # the same classes under two names would not be equal
    raise ImportError(
        "import hqde_fl.clients: the folder clients/ is a part of the package hqde_fl"
    )
