"""What tests share: ports, processes, tokens, waiting for a condition."""
