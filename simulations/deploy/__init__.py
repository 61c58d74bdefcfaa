"""Federations of real processes: keys and certificates, SuperLink, SuperNodes."""
