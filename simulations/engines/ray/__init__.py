"""The Ray engine: clients simulated in parallel in reused worker processes."""
