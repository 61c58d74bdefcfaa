"""Edges of a simulation: what stands around them, and what a run records of them."""
