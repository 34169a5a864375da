"""The aggregated discovery service, state of the world: tells every Envoy what to do, and hears whether it does.

A response names a nonce; the next request of its kind that names it acknowledges it, or refuses it with a detail
(xDS: ACK, NACK and resource type instance version). Requests with an older nonce were overtaken and say nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import grpc
import structlog
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.protobuf import Any

from services.controlplane.latest import Latest
from services.controlplane.snapshot import Kind, Snapshot

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHOD = "StreamAggregatedResources"
# These are always wanted whole; of the others, what was asked for by name.
_WILDCARD = {Kind.CLUSTER, Kind.LISTENER}

_log = structlog.get_logger()


@dataclass(slots=True)
class Subscription:
    """What one Envoy wants of one kind, and what it was sent."""

    names: frozenset[str] = frozenset()
    nonce: str = ""
    sent: tuple[str, frozenset[str]] | None = None
    """Version and names of the last response."""
    accepted: str = ""


@dataclass(slots=True)
class Conversation:
    """One stream, without its transport: requests in, responses out."""

    node: str = ""
    subscriptions: dict[Kind, Subscription] = field(default_factory=dict)
    _responses: int = 0

    def hear(self, request: DiscoveryRequest) -> None:
        """Notes what is asked for, acknowledged or refused."""
        if request.node is not None and request.node.id:
            self.node = request.node.id
        try:
            kind = Kind(request.type_url)
        except ValueError:
            _log.warning("unknown type asked for", node=self.node, type_url=request.type_url)
            return
        subscription = self.subscriptions.setdefault(kind, Subscription())
        if request.response_nonce != subscription.nonce:
            return
        subscription.names = frozenset(request.resource_names)
        if request.error_detail is not None:
            _log.error(
                "refused by Envoy",
                node=self.node,
                kind=kind.name.lower(),
                version=subscription.sent[0] if subscription.sent else "",
                accepted=request.version_info,
                detail=request.error_detail.message,
            )
        elif subscription.sent is not None and subscription.accepted != request.version_info:
            subscription.accepted = request.version_info
            _log.debug("accepted by Envoy", node=self.node, kind=kind.name.lower(), version=request.version_info)

    def say(self, snapshot: Snapshot) -> Iterator[DiscoveryResponse]:
        """What is new for this Envoy, in the order of Kind.

        Assignments follow every response with clusters, changed or not: Envoy waits for them before it uses a cluster
        that was sent again (xDS: resource warming).
        """
        again = False
        for kind in Kind:
            subscription = self.subscriptions.get(kind)
            if subscription is None:
                continue
            version = snapshot.versions[kind]
            due = (version, subscription.names) != subscription.sent
            if due or (again and kind is Kind.ASSIGNMENT):
                yield self._response(kind, subscription, snapshot)
                again = kind is Kind.CLUSTER

    def _response(self, kind: Kind, subscription: Subscription, snapshot: Snapshot) -> DiscoveryResponse:
        self._responses += 1
        subscription.nonce = str(self._responses)
        subscription.sent = (snapshot.versions[kind], subscription.names)
        bodies = snapshot.resources[kind]
        wanted = bodies if kind in _WILDCARD else [name for name in bodies if name in subscription.names]
        return DiscoveryResponse(
            version_info=snapshot.versions[kind],
            resources=[Any(type_url=kind.value, value=bodies[name]) for name in wanted],
            type_url=kind.value,
            nonce=subscription.nonce,
        )


class DiscoveryService:
    """The transport: one conversation per stream.

    Says nothing until there is a snapshot: an empty answer would take every endpoint away.
    """

    def __init__(self, snapshots: Latest[Snapshot]) -> None:
        self._snapshots = snapshots

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the one method that Envoy calls."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.stream, request_deserializer=DiscoveryRequest.parse, response_serializer=bytes
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})])

    async def stream(
        self, requests: AsyncIterator[DiscoveryRequest], _context: object
    ) -> AsyncIterator[DiscoveryResponse]:
        """Answers whatever comes first, a request or a new snapshot, until Envoy hangs up."""
        conversation = Conversation()
        request = asyncio.ensure_future(anext(requests, None))
        news = asyncio.ensure_future(self._snapshots.beyond(0))
        try:
            while True:
                await asyncio.wait((request, news), return_when=asyncio.FIRST_COMPLETED)
                if request.done():
                    if (heard := request.result()) is None:
                        return
                    conversation.hear(heard)
                    request = asyncio.ensure_future(anext(requests, None))
                if news.done():
                    news = asyncio.ensure_future(self._snapshots.beyond(self._snapshots.number))
                if self._snapshots.value is not None:
                    for response in conversation.say(self._snapshots.value):
                        yield response
        finally:
            request.cancel()
            news.cancel()
            _log.info("stream ended", node=conversation.node)
