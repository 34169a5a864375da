"""Owns the catalogue: what can be bought, and for how much."""
