"""The shopmesh command. A package for each thing that it does; beside them what all of them need."""
