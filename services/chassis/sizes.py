"""How large a call may be, and how many may come at once, for every gRPC server of the mesh."""

METADATA_BYTES = 48 * 1024
"""All metadata of a request, as HTTP/2 counts it (32 bytes more per entry). A token takes 1 to 4 KiB.

More than Envoy lets pass: gRPC may take a second to refuse metadata, Envoy counts such a second as a failure of the
instance, and a few callers could take all instances out.
"""

MESSAGE_BYTES = 4 * 1024 * 1024
"""One message, which is gRPC's own default."""

WAITING_CALLS = 20_000
"""How many calls may wait until the event loop takes them; more than Envoy lets through, streams included.

By default gRPC answers some of those beyond 1,000 CANCELLED, by chance, which nobody tries again: two thousand watchers
whose instance has ended come all at once.
"""

SERVER_OPTIONS = (
    # Between a soft and a hard limit gRPC refuses at random; so there is one limit.
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.server.max_pending_requests", WAITING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", WAITING_CALLS),
    # Two processes on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
)
