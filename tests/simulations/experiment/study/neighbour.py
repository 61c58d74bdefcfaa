"""A module beside ``mine.py``, which imports it."""

EXAMPLES, WIDTH = 120, 4
