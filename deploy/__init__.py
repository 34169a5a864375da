"""Checks of what is in this folder: `make check` runs `python -m deploy.check`."""
