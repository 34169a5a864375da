"""The shop as its customers and its clerks see it: orders, what could not be delivered, and a demonstration."""
