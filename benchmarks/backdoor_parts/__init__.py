"""The federations of ``benchmarks/backdoors.py``."""
