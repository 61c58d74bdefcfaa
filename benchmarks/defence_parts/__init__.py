"""The parts of ``benchmarks/defences.py``: modules with a function ``measure(quick)``.

It returns the rows of its table, each a dict, and its checks (``benchmarks.reporting.check``).
"""
