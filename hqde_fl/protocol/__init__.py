"""Everything that knows Flower's records: reading, writing and screening of messages."""
