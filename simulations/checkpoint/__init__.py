"""Checkpoints: the state of a run, written between rounds, from which it resumes after a crash."""
