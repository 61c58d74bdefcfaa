"""The Python API: run experiments and sweeps, and have their results as data frames."""
