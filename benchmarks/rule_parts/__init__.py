"""What ``benchmarks/rules.py`` times rules against, and updates that it times them on."""
