"""A shop on this machine: its processes as data, and who starts, watches and ends them."""
