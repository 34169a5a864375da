"""httpx, for those who ask other processes by HTTP. Its own command would load click, rich and pygments."""

from services.chassis.imports import hidden

with hidden("click"):
    import httpx

__all__ = ["httpx"]
