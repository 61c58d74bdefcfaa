"""Callbacks that send the numbers of each round to tools that draw them, one file each."""
