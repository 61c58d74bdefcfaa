"""Flower's messages and records: reading, writing and screening them."""
