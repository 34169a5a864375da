"""Rules and use cases, with fakes of ports: no process, no network."""
