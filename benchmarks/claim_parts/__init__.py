"""What ``benchmarks/claims.py`` runs: its cases, and the one in blazefl."""
