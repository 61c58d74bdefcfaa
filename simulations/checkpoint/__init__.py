"""What a run needs to go on after its process was killed: written after every round, read back."""
