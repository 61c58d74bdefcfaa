"""Run directories: writing them, following them, and measuring what they hold."""
