"""Where spans go while the shop is measured: takes every export, looks at nothing. Prints its port."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc


class Sink(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        # No byte is a valid message of any type, so also the response of an export.
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


def main() -> None:
    """Never returns."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Sink(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
