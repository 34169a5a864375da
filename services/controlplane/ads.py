"""The aggregated discovery service, state of the world: tells every Envoy what to do, and hears whether it does.

A response names a nonce; the request that names it acknowledges it, or refuses it with a detail (xDS: ACK, NACK and
resource type instance version). Clusters and listeners are told whole; of assignments and routes only what is new for
this Envoy, which keeps the others (xDS: grouping resources into responses). The version of a response is that of all
that Envoy then has of the kind: a stream that begins with the version of today needs to be told nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

import grpc

from services.chassis import logs
from services.controlplane.discovery import Request, response
from services.controlplane.latest import Latest
from services.controlplane.snapshot import Kind, Snapshot, differences, version

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHOD = "StreamAggregatedResources"
# Envoy asks every 5 s whether its control plane is still there (envoy/bootstrap.yaml). By default gRPC takes that for
# an attack, and hangs up after half a minute.
MAY_BE_ASKED = ("grpc.http2.min_ping_interval_without_data_ms", 1000)
# These are always wanted whole; of the others, what was asked for by name.
_WHOLE = {Kind.CLUSTER, Kind.LISTENER}

_log = logs.get()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an Envoy did not take. It goes on with what it had."""

    node: str
    kind: Kind
    names: tuple[str, ...]
    """The resources that Envoy names; if it names none, all that it was sent."""
    version: str
    detail: str
    """In Envoy's words, which name the field."""


@dataclass(slots=True)
class Subscription:
    """What one Envoy wants of one kind, and what it was sent."""

    names: frozenset[str]
    has: str
    """The version that it brought from another stream."""
    nonce: str = ""
    renamed: bool = True
    """It asked for other names since it was told."""
    sent: dict[str, int] = field(default_factory=dict)
    """Version by name, refused ones too: they are not sent again."""
    kept: dict[str, int] = field(default_factory=dict)
    """The same without those that were refused."""
    unanswered: dict[str, Mapping[str, int | None]] = field(default_factory=dict)
    """By nonce, what was sent, with what was kept before; the oldest first."""

    def answered(self, nonce: str) -> Mapping[str, int | None] | None:
        """What was sent under this nonce, with what was kept before; None when it was answered already.

        Envoy does not answer while clusters warm, and then once for all that it was sent meanwhile: for the last.
        """
        if nonce not in self.unanswered:
            return None
        while (oldest := next(iter(self.unanswered))) != nonce:
            del self.unanswered[oldest]
        return self.unanswered.pop(nonce)


@dataclass(slots=True)
class Conversation:
    """One stream, without its transport: requests in, responses out."""

    node: str = ""
    subscriptions: dict[Kind, Subscription] = field(default_factory=dict)
    refusals: dict[Kind, Refusal] = field(default_factory=dict)
    _said: Snapshot | None = None
    _responses: int = 0

    def hear(self, request: Request) -> None:
        """Notes what is asked for, acknowledged or refused."""
        self.node = request.node or self.node
        try:
            kind = Kind(request.type_url)
        except ValueError:
            _log.warning("unknown type asked for", node=self.node, type_url=request.type_url)
            return
        subscription = self.subscriptions.get(kind)
        if subscription is None:
            self.subscriptions[kind] = Subscription(request.names, request.version)
            return
        if (before := subscription.answered(request.nonce)) is not None:
            if request.error is None:
                if self.refusals.pop(kind, None):
                    _log.info("accepted by Envoy", node=self.node, kind=kind.name.lower(), version=request.version)
            else:
                self._refused(kind, subscription, before, request.error)
        # A request with an older nonce was overtaken: what it asks for is asked for again.
        if request.nonce == subscription.nonce and request.names != subscription.names:
            subscription.names, subscription.renamed = request.names, True
            for name in subscription.sent.keys() - request.names if kind not in _WHOLE else ():
                del subscription.sent[name]
                subscription.kept.pop(name, None)

    def _refused(self, kind: Kind, subscription: Subscription, before: Mapping[str, int | None], detail: str) -> None:
        """Takes back what Envoy has not taken, so that no later version says that it has."""
        refused = version(subscription.sent.values())
        for name, kept in before.items():
            if kept is None:
                subscription.kept.pop(name, None)
            else:
                subscription.kept[name] = kept
        names = tuple(sorted(name for name in before if name in detail)) or tuple(sorted(before))
        self.refusals[kind] = Refusal(self.node, kind, names, refused, detail)
        _log.error(
            "refused by Envoy",
            node=self.node,
            kind=kind.name.lower(),
            names=names,
            version=refused,
            kept=version(subscription.kept.values()),
            detail=detail,
        )

    def say(self, snapshot: Snapshot) -> Iterator[bytes]:
        """What is new for this Envoy, in the order of Kind."""
        changed = differences(self._said, snapshot) if self._said is not None else None
        self._said = snapshot
        for kind in Kind:
            subscription = self.subscriptions.get(kind)
            if subscription is None or not (subscription.renamed or changed is None or changed[kind]):
                continue
            versions = snapshot.versions[kind]
            first, subscription.renamed, all_of_it = not subscription.nonce, False, subscription.renamed
            wanted = versions if kind in _WHOLE else subscription.names
            looked_at = wanted if all_of_it or changed is None else [name for name in changed[kind] if name in wanted]
            if first and not subscription.sent:
                today = {name: versions[name] for name in wanted if name in versions}
                if subscription.has and subscription.has == version(today.values()):
                    subscription.sent, subscription.kept = today, dict(today)
                    continue
            gone = {name for name in subscription.sent if name not in versions} if kind in _WHOLE else set()
            due = [name for name in looked_at if name in versions and subscription.sent.get(name) != versions[name]]
            if due or gone or (first and not subscription.sent):
                yield self._response(kind, subscription, snapshot, sorted(versions if kind in _WHOLE else due))

    def _response(self, kind: Kind, subscription: Subscription, snapshot: Snapshot, names: list[str]) -> bytes:
        self._responses += 1
        nonce = subscription.nonce = str(self._responses)
        versions, bodies = snapshot.versions[kind], snapshot.bodies[kind]
        subscription.unanswered[nonce] = {name: subscription.kept.get(name) for name in names}
        if kind in _WHOLE:
            subscription.sent, subscription.kept = {}, {}
        for name in names:
            subscription.sent[name] = subscription.kept[name] = versions[name]
        return response(kind, (bodies[name] for name in names), version(subscription.kept.values()), nonce)


class DiscoveryService:
    """The transport: one conversation per stream.

    Says nothing until there is a snapshot: an empty answer would take every endpoint away.
    """

    def __init__(self, snapshots: Latest[Snapshot]) -> None:
        self.refusals = Latest[tuple[Refusal, ...]]()
        """What Envoys that are connected refuse now."""
        self.conversations: list[Conversation] = []
        """With Envoys that are connected."""
        self._snapshots = snapshots

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the one method that Envoy calls."""
        handler: grpc.RpcMethodHandler[Request, bytes] = grpc.stream_stream_rpc_method_handler(
            self.stream, request_deserializer=Request.parse
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})])

    async def stream(self, requests: AsyncIterator[Request], _context: object) -> AsyncIterator[bytes]:
        """Answers whatever comes first, a request or a new snapshot, until Envoy hangs up."""
        conversation, news = Conversation(), asyncio.Event()
        self.conversations.append(conversation)
        listening = asyncio.create_task(self._listen(requests, conversation, news))
        try:
            with self._snapshots.waking(news):
                while not listening.done():
                    news.clear()
                    if self._snapshots.value is not None:
                        for encoded in conversation.say(self._snapshots.value):
                            yield encoded
                    await news.wait()
                await listening
        finally:
            listening.cancel()
            self.conversations.remove(conversation)
            self._note_refusals()
            _log.info("stream ended", node=conversation.node)

    async def _listen(self, requests: AsyncIterator[Request], conversation: Conversation, news: asyncio.Event) -> None:
        try:
            async for request in requests:
                conversation.hear(request)
                self._note_refusals()
                news.set()
        finally:
            news.set()

    def _note_refusals(self) -> None:
        now = tuple(refusal for each in self.conversations for refusal in each.refusals.values())
        if now != (self.refusals.value or ()):
            self.refusals.put(now)
