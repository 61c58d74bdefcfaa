"""Flower client mods: packed updates, reconstruction of sent models, and noise."""
