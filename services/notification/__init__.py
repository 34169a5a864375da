"""Tells customers by e-mail what happened to their orders, once each."""
