"""The command line: commands, progress, signals and tables for a terminal."""
