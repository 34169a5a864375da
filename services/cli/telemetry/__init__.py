"""Log lines and traces in a terminal."""
