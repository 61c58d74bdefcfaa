"""One training round of the server, from addressed messages to its record."""
