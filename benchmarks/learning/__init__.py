"""The learning experiments of benchmarks/quantum.py."""
