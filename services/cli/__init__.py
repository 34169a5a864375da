"""The shopmesh command: starts the local processes, looks into them, stops them."""
