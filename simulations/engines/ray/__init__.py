"""The Ray engine: clients simulated in parallel in warm worker processes."""
