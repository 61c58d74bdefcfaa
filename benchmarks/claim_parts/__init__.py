"""The cases of ``benchmarks/claims.py``, and the one that blazefl runs itself."""
