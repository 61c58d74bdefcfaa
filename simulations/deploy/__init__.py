"""Deployment on real nodes: keys and certificates, SuperLink and SuperNodes."""
