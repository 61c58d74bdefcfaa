"""A Grid for deployments, which reads the replies of real nodes without trusting them."""
