"""Snapshots and the conversation with Envoy: versions, order, acknowledgements, refusals."""

from collections.abc import Iterable, Sequence

import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.rpc import Status

from services.controlplane.ads import Conversation
from services.controlplane.discovery import Request
from services.controlplane.snapshot import Inconsistent, Kind, Resource, Snapshot, differences


def service(name: str, cluster: bytes = b"c", assignment: bytes = b"a") -> list[Resource]:
    return [
        Resource(Kind.CLUSTER, name, cluster, frozenset({(Kind.ASSIGNMENT, name)})),
        Resource(Kind.ASSIGNMENT, name, assignment),
    ]


ROUTES = Resource(Kind.ROUTES, "edge", b"r1", frozenset({(Kind.CLUSTER, "product")}))
LISTENER = Resource(Kind.LISTENER, "edge", b"l1", frozenset({(Kind.ROUTES, "edge")}))
ALL = (*service("product"), *service("order"), ROUTES, LISTENER)
TODAY = Snapshot.of(ALL)
NAMES = {Kind.ASSIGNMENT: frozenset({"product", "order"}), Kind.ROUTES: frozenset({"edge"})}
CHANGED = {
    Kind.CLUSTER: service("product", cluster=b"another"),
    Kind.ASSIGNMENT: service("product", assignment=b"another"),
    Kind.LISTENER: [Resource(Kind.LISTENER, "edge", b"another", LISTENER.needs)],
    Kind.ROUTES: [Resource(Kind.ROUTES, "edge", b"another", ROUTES.needs)],
}


class Envoy:
    """One end of a conversation."""

    def __init__(self, *, has: dict[Kind, str] | None = None) -> None:
        self.conversation = Conversation()
        self.versions = dict(has or {})
        self.nonces: dict[Kind, str] = {}

    def ask(self, kind: Kind, names: Iterable[str] | None = None, error: str | None = None) -> None:
        self.conversation.hear(
            Request(
                kind.value,
                frozenset(names) if names is not None else NAMES.get(kind, frozenset()),
                self.nonces.get(kind, ""),
                self.versions.get(kind, ""),
                error,
            )
        )

    def hears(self, snapshot: Snapshot, refusing: str | None = None) -> list[tuple[Kind, list[bytes]]]:
        """What it is told, acknowledged or refused at once."""
        told = []
        for encoded in self.conversation.say(snapshot):
            response = DiscoveryResponse.parse(encoded)
            kind = Kind(response.type_url)
            told.append((kind, [resource.value for resource in response.resources]))
            self.nonces[kind] = response.nonce
            if refusing is None:
                self.versions[kind] = response.version_info
            self.ask(kind, error=refusing)
        return told


def settled() -> Envoy:
    """It has everything and has acknowledged it."""
    envoy = Envoy()
    for kind in Kind:
        envoy.ask(kind)
        envoy.hears(TODAY)
    return envoy


def kinds(told: Sequence[tuple[Kind, list[bytes]]]) -> list[Kind]:
    return [kind for kind, _ in told]


@pytest.mark.parametrize("missing", [*service("product"), ROUTES], ids=lambda one: one.kind.name)
def test_a_reference_that_leads_nowhere_makes_no_snapshot(missing: Resource) -> None:
    with pytest.raises(Inconsistent, match=f"{missing.kind.name} {missing.name}"):
        Snapshot.of(one for one in ALL if one != missing)
    with pytest.raises(Inconsistent, match=f"{missing.kind.name} {missing.name}"):
        TODAY.with_([], instead_of=[missing])


def test_a_version_is_the_content_and_nothing_else() -> None:
    assert Snapshot.of(reversed(ALL)).versions == TODAY.versions
    assert TODAY.with_(CHANGED[Kind.CLUSTER]).with_(service("product")).versions == TODAY.versions


@pytest.mark.parametrize(
    ("kind", "differ"),
    [(Kind.CLUSTER, {Kind.CLUSTER, Kind.ASSIGNMENT}), *((kind, {kind}) for kind in list(Kind)[1:])],
)
def test_only_what_changes_has_another_version_and_assignments_that_of_their_cluster(
    kind: Kind, differ: set[Kind]
) -> None:
    changed = differences(TODAY, TODAY.with_(CHANGED[kind]))

    name = "product" if kind in {Kind.CLUSTER, Kind.ASSIGNMENT} else "edge"
    assert {of: set(names) for of, names in changed.items() if names} == {of: {name} for of in differ}


def test_nothing_is_said_twice() -> None:
    assert settled().hears(TODAY) == []


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        # Of clusters there is no telling but all; Envoy waits for the assignment of that which changed.
        (Kind.CLUSTER, [(Kind.CLUSTER, [b"c", b"another"]), (Kind.ASSIGNMENT, [b"a"])]),
        *((kind, [(kind, [b"another"])]) for kind in list(Kind)[1:]),
    ],
)
def test_what_changed_is_sent_and_no_more(kind: Kind, told: list[tuple[Kind, list[bytes]]]) -> None:
    assert settled().hears(TODAY.with_(CHANGED[kind])) == told


def test_changes_go_out_in_the_order_that_loses_no_call() -> None:
    everything = [
        one for kind in (Kind.LISTENER, Kind.ROUTES) for one in CHANGED[kind]
    ] + service("product", cluster=b"another", assignment=b"another")  # fmt: skip

    assert kinds(settled().hears(TODAY.with_(everything))) == list(Kind)


def test_a_cluster_that_went_is_told_by_the_others() -> None:
    assert settled().hears(TODAY.with_([], instead_of=service("order"))) == [(Kind.CLUSTER, [b"c"])]


def test_what_is_asked_for_anew_is_sent_alone() -> None:
    envoy = settled()
    more = TODAY.with_(service("inventory", assignment=b"new"))
    assert kinds(envoy.hears(more)) == [Kind.CLUSTER]

    envoy.ask(Kind.ASSIGNMENT, {"product", "order", "inventory"})

    assert envoy.hears(more) == [(Kind.ASSIGNMENT, [b"new"])]


def test_what_was_given_up_is_sent_again_when_it_is_asked_for_again() -> None:
    envoy = settled()
    envoy.ask(Kind.ASSIGNMENT, {"order"})
    assert envoy.hears(TODAY) == []

    envoy.ask(Kind.ASSIGNMENT, {"order", "product"})

    assert envoy.hears(TODAY) == [(Kind.ASSIGNMENT, [b"a"])]


def test_a_first_request_for_what_does_not_exist_is_answered_with_nothing() -> None:
    envoy = Envoy()

    envoy.ask(Kind.ASSIGNMENT, {"unknown"})

    assert envoy.hears(TODAY) == [(Kind.ASSIGNMENT, [])]


def test_an_envoy_that_comes_from_another_control_plane_is_told_what_it_lacks() -> None:
    before = settled()
    same, newer = Snapshot.of(ALL), Snapshot.of([*ALL[2:], *CHANGED[Kind.ASSIGNMENT]])
    for snapshot, told in ((same, []), (newer, [Kind.ASSIGNMENT])):
        moved = Envoy(has=before.versions)
        for kind in Kind:
            moved.ask(kind)
        assert kinds(moved.hears(snapshot)) == told
        assert moved.hears(snapshot) == []


def test_an_envoy_that_took_a_cluster_but_not_yet_its_assignment_is_told_it_by_the_next() -> None:
    changed = TODAY.with_(CHANGED[Kind.CLUSTER])
    before = settled()
    cluster = DiscoveryResponse.parse(next(before.conversation.say(changed)))

    moved = Envoy(has={**before.versions, Kind.CLUSTER: cluster.version_info})
    for kind in Kind:
        moved.ask(kind)

    assert kinds(moved.hears(changed)) == [Kind.ASSIGNMENT]


def test_what_was_refused_is_not_sent_again_but_the_next_is() -> None:
    envoy = settled()
    refused = TODAY.with_(CHANGED[Kind.ROUTES])

    envoy.hears(refused, refusing="edge: retry_policy: value must be less than 10")

    (refusal,) = envoy.conversation.refusals.values()
    assert (refusal.kind, refusal.names, refusal.detail[:18]) == (Kind.ROUTES, ("edge",), "edge: retry_policy")
    assert envoy.hears(refused) == []
    assert kinds(envoy.hears(TODAY)) == [Kind.ROUTES]
    assert envoy.conversation.refusals == {}


def test_a_refused_cluster_does_not_keep_assignments_back() -> None:
    envoy = settled()
    changed = TODAY.with_(CHANGED[Kind.CLUSTER])
    envoy.hears(changed, refusing="product: connect_timeout")

    moved = changed.with_(service("order", assignment=b"moved"))

    assert (Kind.ASSIGNMENT, [b"moved"]) in envoy.hears(moved)


def test_no_version_says_that_an_envoy_has_what_it_refused() -> None:
    envoy = settled()
    envoy.hears(TODAY.with_(CHANGED[Kind.ASSIGNMENT]), refusing="product: address")
    both = TODAY.with_([*CHANGED[Kind.ASSIGNMENT], *service("order", assignment=b"moved")])
    assert envoy.hears(both) == [(Kind.ASSIGNMENT, [b"moved"])]

    moved = Envoy(has=envoy.versions)
    moved.ask(Kind.ASSIGNMENT)

    assert sorted(moved.hears(both)[0][1]) == [b"another", b"moved"]


def test_an_answer_to_the_last_of_several_responses_answers_all() -> None:
    envoy = settled()
    clusters = envoy.conversation.subscriptions[Kind.CLUSTER]
    for body in (b"second", b"third"):
        # Envoy answers nothing while clusters warm.
        for encoded in envoy.conversation.say(Snapshot.of([*service("product", cluster=body), *ALL[2:]])):
            response = DiscoveryResponse.parse(encoded)
            envoy.nonces[Kind(response.type_url)] = response.nonce
    assert len(clusters.unanswered) == 2

    envoy.ask(Kind.CLUSTER)

    assert clusters.unanswered == {}


def test_a_request_that_was_overtaken_says_nothing() -> None:
    envoy = settled()
    old = dict(envoy.nonces)
    envoy.hears(TODAY.with_(CHANGED[Kind.ASSIGNMENT]))

    envoy.nonces = old
    envoy.ask(Kind.ASSIGNMENT, set())

    assert envoy.conversation.subscriptions[Kind.ASSIGNMENT].names == NAMES[Kind.ASSIGNMENT]


def test_requests_are_read_as_envoy_writes_them() -> None:
    sent = DiscoveryRequest(
        version_info="1", node=Node(id="envoy"), resource_names=["a", "b"], type_url="t", response_nonce="2",
        error_detail=Status(code=13, message="why"),
    )  # fmt: skip

    assert Request.parse(bytes(sent)) == Request("t", frozenset({"a", "b"}), "2", "1", "why", "envoy")
    assert Request.parse(bytes(DiscoveryRequest(type_url="t"))) == Request("t")
