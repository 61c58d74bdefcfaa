"""Parts of ``benchmarks/distributed.py``, each of which runs in a process of its own."""
