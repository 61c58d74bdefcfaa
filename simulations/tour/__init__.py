"""A tour through the components of HQDE: each at work for a moment, with a line and a figure."""
