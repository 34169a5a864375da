"""The embedded telemetry store: OTLP in, SQLite, pages out. Nothing waits for it, and it needs nothing."""
