"""Services that answer every rpc with an empty message and tell what they heard; registered as real ones are.

`python -m tests.support.echo NAME product order=20001` serves both, as instance NAME, a port each, any or a given one;
NAME@2 is of version 2.

What a call asks for in its metadata is done first: `x-wait: 0.3` (seconds), `x-abort: UNAVAILABLE`, and
`x-hear: traceparent`, which puts that header as it was heard into the answer's, as `x-heard`. Who answered is said in
the trailers, `x-instance`. Before anything else the id in `x-call` is written to the file that EXECUTED names: what
was carried out is known also of an instance that is killed.
GetProduct returns the product that was named, PlaceOrder the order that was sent, UpdateProduct what the mask names of
the product that was sent. WatchOrder returns the order that was named, `x-times: 2` (once without it), and waits after
each; it aborts in the end.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import grpc
from google.protobuf import duration_pb2, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from mesh.v1 import registry_pb2
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2

from services.chassis.draining import HEARD_S, until_no_call_comes
from services.chassis.etcd import Etcd
from services.chassis.registry import Registration
from services.chassis.sizes import SERVER_OPTIONS

GRACE_S = 5.0
PR_SET_PDEATHSIG = 1

type Context = grpc.aio.ServicerContext[bytes, bytes]  # evaluated by type checkers only


class Echo(grpc.GenericRpcHandler):
    """Takes every path but health's."""

    def __init__(self, instance: str, executed: int | None = None) -> None:
        """`executed`: a file that is open for appending."""
        self._instance, self._executed = instance, executed
        self.last_call = 0.0

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if details.method.startswith("/grpc.health."):
            return None
        self.last_call = time.monotonic()

        async def answer(request: bytes, context: Context) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            if self._executed is not None and "x-call" in metadata:
                os.write(self._executed, f"{metadata['x-call']!s}\n".encode())
            await asyncio.sleep(float(metadata.get("x-wait", 0)))
            context.set_trailing_metadata([("x-instance", self._instance)])
            # Only where it is asked for: between the headers of an answer and its rest Envoy cannot try again.
            if name := metadata.get("x-hear"):
                await context.send_initial_metadata([("x-heard", metadata[str(name)])])
            if "x-abort" in metadata:
                await refuse(context, grpc.StatusCode[str(metadata["x-abort"])])
            return _answer(details.method, request)

        async def watch(request: bytes, context: Context) -> None:
            metadata = dict(context.invocation_metadata() or ())
            name = order_pb2.WatchOrderRequest.FromString(request).name
            for version in range(int(metadata.get("x-times", 1))):
                order = order_pb2.Order(name=name, etag=f'"{version + 1}"')
                await context.write(order_pb2.WatchOrderResponse(order=order).SerializeToString())
                await asyncio.sleep(float(metadata.get("x-wait", 0)))
            if "x-abort" in metadata:
                await refuse(context, grpc.StatusCode[str(metadata["x-abort"])])

        if details.method.endswith("/WatchOrder"):
            return grpc.unary_stream_rpc_method_handler(watch)
        return grpc.unary_unary_rpc_method_handler(answer)


async def refuse(context: Context, code: grpc.StatusCode) -> None:
    status = status_pb2.Status(code=code.value[0], message="as asked")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="AS_ASKED", domain="shop", metadata={"by": "echo"}))
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)))
    await context.abort_with_status(rpc_status.to_status(status))


def _answer(method: str, request: bytes) -> bytes:
    match method.rpartition("/")[2]:
        case "GetProduct":
            name = product_pb2.GetProductRequest.FromString(request).name
            return product_pb2.GetProductResponse(product=product_pb2.Product(name=name)).SerializeToString()
        case "UpdateProduct":
            update = product_pb2.UpdateProductRequest.FromString(request)
            answer = product_pb2.UpdateProductResponse()
            update.update_mask.paths.append("name")
            update.update_mask.MergeMessage(update.product, answer.product)
            return answer.SerializeToString()
        case "PlaceOrder":
            order = order_pb2.PlaceOrderRequest.FromString(request).order
            order.state = order_pb2.Order.STATE_PLACED
            return order_pb2.PlaceOrderResponse(order=order).SerializeToString()
    return b""


async def serve(instance: str, version: str, services: Sequence[str], executed: int | None = None) -> None:
    """Ready, then registered; drained on SIGTERM as real ones are: DRAINING, 0.2 s, NOT_SERVING, no call, stop."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers([echo := Echo(instance, executed)])
    checked = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checked, server)
    await checked.set("", health_pb2.HealthCheckResponse.SERVING)
    addresses = {
        service: f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port or 0}')}"
        for service, _, port in (words.partition("=") for words in services)
    }
    await server.start()
    started = timestamp_pb2.Timestamp()
    started.GetCurrentTime()
    etcd = Etcd(os.environ["SHOPMESH_ETCD"])
    registrations = [
        Registration(
            etcd,
            "/shop/",
            service,
            instance,
            registry_pb2.Endpoint(address=address, version=version, start_time=started),
        )
        for service, address in addresses.items()
    ]
    renewals = [asyncio.create_task(registration.run()) for registration in registrations]
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    await asyncio.gather(*(registration.drain() for registration in registrations))
    await asyncio.sleep(HEARD_S)
    await checked.enter_graceful_shutdown()
    await until_no_call_comes(lambda: echo.last_call)
    await server.stop(GRACE_S)
    for renewal in renewals:
        renewal.cancel()
    await asyncio.gather(*(registration.leave() for registration in registrations))
    await etcd.close()


if __name__ == "__main__":
    # Dies with the tests, however they end.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    file = os.environ.get("EXECUTED")
    appending = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if file else None
    name, _, version = sys.argv[1].partition("@")
    asyncio.run(serve(name, version, sys.argv[2:], appending))
