"""``HQDESystem``, which trains an ensemble on a ``DataLoader`` in one call, and its parts."""
