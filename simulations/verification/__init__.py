"""Check a recorded run: its chain of hashes, and rounds that are computed again."""
