"""Calls that show whether a token is taken: reads that change nothing, at the edge and at each instance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from mesh.v1 import registry_pb2
from shop.inventory.v1 import inventory_pb2
from shop.notification.v1 import notification_pb2
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2

from services.chassis.documents import DocumentRefused, parsed
from services.chassis.etcd import Etcd, EtcdUnavailable
from services.cli.settings import ENDPOINTS

TIMEOUT_S = 10.0
READS: dict[str, tuple[str, Message]] = {
    "product": ("/shop.product.v1.ProductService/ListProducts", product_pb2.ListProductsRequest(page_size=1)),
    "inventory": ("/shop.inventory.v1.InventoryService/ListStock", inventory_pb2.ListStockRequest(page_size=1)),
    "order": ("/shop.order.v1.OrderService/ListOrders", order_pb2.ListOrdersRequest(page_size=1)),
    "notification": (
        "/shop.notification.v1.NotificationService/ListNotifications",
        notification_pb2.ListNotificationsRequest(page_size=1),
    ),
}
"""By service. A token is looked at before anything else, also where none is needed."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a call with a token was answered."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    """Of the service; Envoy has none."""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def accepted(self) -> bool:
        """The token, whatever became of the call: a role that is missing was looked for in it."""
        return self.code is grpc.StatusCode.OK or self.reason == "ROLE_MISSING"

    @property
    def silent(self) -> bool:
        """Nobody looked at the token."""
        return self.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and not self.reason

    @property
    def said(self) -> str:
        reason = f"/{self.reason}" if self.reason else ""
        facts = ", ".join(f"{name} {value}" for name, value in sorted(self.facts.items()))
        return f"{self.code.name}{reason} {self.message}{f' ({facts})' if facts else ''}".strip()


async def ask(address: str, service: str, token: str) -> Heard:
    """Reads at `host:port` with this token."""
    path, request = READS[service]
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        read: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        try:
            await read(request.SerializeToString(), metadata=(("authorization", f"Bearer {token}"),), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return Heard(error.code(), error.details() or "", *_told(error))
    return Heard(grpc.StatusCode.OK)


async def instances(etcd: str) -> Sequence[tuple[str, str, str]] | str:
    """Name, service and address of each that is registered; in words why etcd does not tell."""
    client = Etcd(etcd)
    try:
        entries = (await client.get_prefix(ENDPOINTS)).entries
    except EtcdUnavailable:
        return "does not answer"
    finally:
        await client.close()
    found = []
    for key, entry in sorted(entries.items()):
        service, _, instance = key.removeprefix(ENDPOINTS).partition("/")
        try:
            endpoint = parsed(entry.value, registry_pb2.Endpoint)
        except DocumentRefused:
            continue
        if service in READS:
            found.append((instance, service, endpoint.address))
    return found


def _told(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Reason and facts."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(packed if isinstance(packed, bytes) else packed.encode()).details:
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}
