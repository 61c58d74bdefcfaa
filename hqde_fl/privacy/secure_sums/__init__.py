"""Sums of vectors that nobody sees: the protocol of Bonawitz et al. (2017) for one bucket."""
