"""Calls that nobody would write by hand, made from the contracts: a new rpc is among them by itself."""
