"""The Flower engine: stock ``flwr run`` in simulation or on real nodes."""
