"""NATS JetStream: publishing is done when the stream has it, consuming when the handler has returned.

Nothing here waits for NATS to be there: a process starts without it, and works again when it comes back, even empty.
"""
