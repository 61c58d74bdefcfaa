"""What benchmarks/quantum.py learns with."""
