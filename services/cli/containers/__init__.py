"""What the containers of a shop run: what makes their files, starts their processes and asks for their health."""
