"""Measurements of the project; each module is a program."""
