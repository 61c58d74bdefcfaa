"""Flower client mods that a server's message switches on: codec, downlink and noise."""
