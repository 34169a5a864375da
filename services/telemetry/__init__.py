"""The embedded telemetry store: OTLP in, SQLite, pages out. Nothing waits for it, nobody misses it while it is away."""
