"""Measurement of a run while it goes: resources, spans of time and training metrics."""
