"""What the pages of all processes have in common: how they are guarded, and how they look."""
