"""The ServerApp of a generated Flower App."""

from hqde_fl.simulations.server_app import app

__all__ = ["app"]
