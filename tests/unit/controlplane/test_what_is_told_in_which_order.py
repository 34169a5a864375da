"""Snapshots and the conversation with Envoy: versions, order, acknowledgements."""

from collections.abc import Sequence

import pytest
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.rpc import Status

from services.controlplane.ads import Conversation
from services.controlplane.snapshot import Inconsistent, Kind, Resource, Snapshot

CLUSTER = Resource(Kind.CLUSTER, "product", b"c1", frozenset({(Kind.ASSIGNMENT, "product")}))
ASSIGNMENT = Resource(Kind.ASSIGNMENT, "product", b"a1")
ROUTES = Resource(Kind.ROUTES, "edge", b"r1", frozenset({(Kind.CLUSTER, "product")}))
LISTENER = Resource(Kind.LISTENER, "edge", b"l1", frozenset({(Kind.ROUTES, "edge")}))
ALL = (CLUSTER, ASSIGNMENT, ROUTES, LISTENER)


def changed(kind: Kind) -> Snapshot:
    """The snapshot of ALL, with one resource another."""
    return Snapshot.of(Resource(kind, one.name, b"another", one.needs) if one.kind is kind else one for one in ALL)


def ask(kind: Kind, *names: str, after: DiscoveryResponse | None = None, error: str | None = None) -> DiscoveryRequest:
    return DiscoveryRequest(
        type_url=kind.value,
        resource_names=list(names),
        response_nonce=after.nonce if after else "",
        version_info=after.version_info if after else "",
        error_detail=Status(message=error) if error else None,
    )


def kinds(responses: Sequence[DiscoveryResponse]) -> list[Kind]:
    return [Kind(response.type_url) for response in responses]


def settled() -> Conversation:
    """Envoy has everything and has acknowledged it."""
    conversation = Conversation()
    for kind in Kind:
        names = {Kind.ASSIGNMENT: ["product"], Kind.ROUTES: ["edge"]}.get(kind, [])
        conversation.hear(ask(kind, *names))
        (response,) = (r for r in conversation.say(Snapshot.of(ALL)) if r.type_url == kind.value)
        conversation.hear(ask(kind, *names, after=response))
    assert list(conversation.say(Snapshot.of(ALL))) == []
    return conversation


@pytest.mark.parametrize("missing", [ASSIGNMENT, CLUSTER, ROUTES])
def test_a_reference_that_leads_nowhere_makes_no_snapshot(missing: Resource) -> None:
    with pytest.raises(Inconsistent, match=f"{missing.kind.name} {missing.name}"):
        Snapshot.of(one for one in ALL if one is not missing)


def test_a_version_is_the_content_and_nothing_else() -> None:
    assert Snapshot.of(ALL).versions == Snapshot.of(reversed(ALL)).versions
    another = changed(Kind.ROUTES).versions
    assert [kind for kind in Kind if another[kind] != Snapshot.of(ALL).versions[kind]] == [Kind.ROUTES]


def test_a_first_request_is_answered_whatever_version_it_brings() -> None:
    conversation = Conversation()
    snapshot = Snapshot.of(ALL)

    conversation.hear(DiscoveryRequest(type_url=Kind.CLUSTER.value, version_info=snapshot.versions[Kind.CLUSTER]))

    (response,) = conversation.say(snapshot)
    assert [resource.value for resource in response.resources] == [b"c1"]


def test_nothing_is_said_twice() -> None:
    assert list(settled().say(Snapshot.of(ALL))) == []


def test_assignments_follow_clusters_though_they_did_not_change() -> None:
    assert kinds(list(settled().say(changed(Kind.CLUSTER)))) == [Kind.CLUSTER, Kind.ASSIGNMENT]


@pytest.mark.parametrize("kind", [Kind.ASSIGNMENT, Kind.LISTENER, Kind.ROUTES])
def test_of_other_kinds_only_what_changed_is_sent(kind: Kind) -> None:
    assert kinds(list(settled().say(changed(kind)))) == [kind]


def test_changes_go_out_in_the_order_that_loses_no_call() -> None:
    everything = Snapshot.of(Resource(one.kind, one.name, b"another", one.needs) for one in ALL)

    assert kinds(list(settled().say(everything))) == list(Kind)


def test_another_name_is_answered_with_the_same_version() -> None:
    conversation = settled()
    nonce = conversation.subscriptions[Kind.ASSIGNMENT].nonce

    conversation.hear(
        DiscoveryRequest(type_url=Kind.ASSIGNMENT.value, resource_names=["product", "order"], response_nonce=nonce)
    )

    assert kinds(list(conversation.say(Snapshot.of(ALL)))) == [Kind.ASSIGNMENT]


def test_only_what_was_asked_for_by_name_is_sent() -> None:
    conversation = Conversation()
    conversation.hear(ask(Kind.ASSIGNMENT, "order"))

    (response,) = conversation.say(Snapshot.of(ALL))

    assert response.resources == []


def test_a_refused_version_is_not_sent_again_but_the_next_is() -> None:
    conversation = Conversation()
    conversation.hear(ask(Kind.ROUTES, "edge"))
    (response,) = conversation.say(Snapshot.of(ALL))

    conversation.hear(ask(Kind.ROUTES, "edge", after=response, error="no such cluster"))

    assert list(conversation.say(Snapshot.of(ALL))) == []
    assert kinds(list(conversation.say(changed(Kind.ROUTES)))) == [Kind.ROUTES]


def test_a_request_that_was_overtaken_says_nothing() -> None:
    conversation = Conversation()
    conversation.hear(ask(Kind.ASSIGNMENT, "product"))
    (first,) = conversation.say(Snapshot.of(ALL))
    list(conversation.say(changed(Kind.ASSIGNMENT)))

    conversation.hear(ask(Kind.ASSIGNMENT, after=first))

    assert conversation.subscriptions[Kind.ASSIGNMENT].names == {"product"}
