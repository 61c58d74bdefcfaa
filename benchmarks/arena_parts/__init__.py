"""The parts of the arena: its table of results, and its page."""
