"""Owns stock: how much there is, and who it is promised to."""
