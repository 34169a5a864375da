"""What every process stands on: settings, gRPC, etcd, NATS, Postgres and telemetry, with no word of the shop."""
