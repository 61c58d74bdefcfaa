"""Parts of the comparison with byzfl's benchmark."""
