"""Places one order, tries again while it has no answer, and buys nothing twice.

    SHOPMESH_TOKEN=$(.venv/bin/shopmesh token ann) .venv/bin/python examples/place_order.py products/blue-mug=2

Needs shopmesh-contracts (gen/python), grpcio-status and tenacity. The token is that of a person with the role
`customer`; docs/api.md, "Tokens", says how a service gets one of its own.
"""

import argparse
import asyncio
import os
import sys
import uuid

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from shop.order.v1.order_pb2 import Order, PlaceOrderRequest
from shop.order.v1.order_pb2_grpc import OrderServiceStub
from tenacity import RetryCallState, retry, retry_if_exception, stop_before_delay, wait_random_exponential

CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own bound is two minutes
    ("grpc.keepalive_time_ms", 30_000),  # notices a connection that died in silence
]
ATTEMPT_S = 5.0
"""The deadline of one attempt; it travels along, so that nobody works on for a caller who has gone."""
UNANSWERED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def detail[Detail: Message](error: BaseException | None, kind: type[Detail]) -> Detail | None:
    """The detail of that kind in a refusal; none where no service spoke, but Envoy or gRPC itself."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads errors of grpc.aio as well
    found = kind()
    return found if status and any(packed.Unpack(found) for packed in status.details) else None


def unanswered(error: BaseException | None) -> bool:
    """Whether to try again. The attempt may even have succeeded: the request_id makes that one order all the same."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in UNANSWERED


def pause(state: RetryCallState) -> float:
    """As long as the refusal asks for; else ever longer, and out of step with other clients."""
    error = state.outcome.exception() if state.outcome else None
    asked = detail(error, RetryInfo)
    return asked.retry_delay.ToTimedelta().total_seconds() if asked else wait_random_exponential(0.1, max=5)(state)


def tell(state: RetryCallState) -> None:
    """That an attempt went without an answer, and why."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, grpc.aio.AioRpcError):
        print(f"attempt {state.attempt_number}: {error.code().name}", file=sys.stderr)


@retry(retry=retry_if_exception(unanswered), wait=pause, stop=stop_before_delay(30), before_sleep=tell, reraise=True)
async def place(orders: OrderServiceStub, request: PlaceOrderRequest) -> Order:
    """The order: the same one, however often the same request is sent."""
    token = ("authorization", f"Bearer {os.environ['SHOPMESH_TOKEN']}")
    return (await orders.PlaceOrder(request, metadata=(token,), timeout=ATTEMPT_S)).order


async def main() -> None:
    """Prints the order, or why there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", default="127.0.0.1:8080", help="where Envoy listens")
    parser.add_argument("--request-id", default=str(uuid.uuid4()), help="of an order that you began before")
    parser.add_argument("lines", nargs="+", metavar="PRODUCT=QUANTITY")
    args = parser.parse_args()
    lines = [
        Order.Line(product=name, quantity=int(count)) for name, _, count in (x.rpartition("=") for x in args.lines)
    ]
    async with grpc.aio.insecure_channel(args.edge, CHANNEL) as channel:
        try:
            request = PlaceOrderRequest(order=Order(lines=lines), request_id=args.request_id)
            order = await place(OrderServiceStub(channel), request)
        except grpc.aio.AioRpcError as error:
            info = detail(error, ErrorInfo) or ErrorInfo()
            if unanswered(error):
                advice = f"; there may be an order; to find out, come again with --request-id {args.request_id}"
            else:
                advice = ""
            sys.exit(f"{error.code().name}/{info.reason}: {error.details()} {dict(info.metadata)}{advice}")
    print(order)


if __name__ == "__main__":
    asyncio.run(main())
