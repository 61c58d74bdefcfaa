"""The deployment Grid: replies of real nodes, weighed and read without trust."""
