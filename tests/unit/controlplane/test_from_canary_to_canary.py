"""Which versions have a cluster, and which canary the routes go by, while one canary follows another."""

from google.protobuf import json_format
from mesh.v1 import policy_pb2

from services.controlplane.model import Endpoint
from services.controlplane.moves import STEP_S, Moves
from services.controlplane.resources.versions import in_order, versions_of


def policy(**shares: int) -> policy_pb2.Policy:
    weights = [{"version": version, "weight": weight} for version, weight in shares.items()]
    return json_format.ParseDict({"canary": {"weights": weights}} if weights else {}, policy_pb2.Policy())


def told(moves: Moves, wanted: policy_pb2.Policy, at: float) -> tuple[set[str], dict[str, int]]:
    """The versions with a cluster, and the shares."""
    canary = moves.told({"order": wanted}, at)["order"].canary
    return {*versions_of(canary)} - {""}, {each.version: each.weight for each in canary.weights if each.weight}


def test_clusters_come_before_their_routes_and_go_after_them() -> None:
    moves, none, canary = Moves(), policy(), policy(a=9, b=1)

    assert told(moves, none, 0) == (set(), {})
    assert told(moves, canary, 1) == ({"a", "b"}, {})
    assert told(moves, canary, 1 + STEP_S / 2) == ({"a", "b"}, {})
    due = moves.next_change
    assert due == 1 + STEP_S
    assert told(moves, canary, 1 + STEP_S) == ({"a", "b"}, {"a": 9, "b": 1})
    assert moves.next_change is None
    assert told(moves, none, 9) == ({"a", "b"}, {})
    assert told(moves, none, 9 + STEP_S) == (set(), {})


def test_other_weights_need_no_steps() -> None:
    moves = Moves()
    told(moves, policy(a=9, b=1), 0)

    assert told(moves, policy(a=1, b=9), 1) == ({"a", "b"}, {"a": 1, "b": 9})
    assert moves.next_change is None


def test_a_version_falls_back_to_those_with_a_weight_then_to_any() -> None:
    one, two, three = (Endpoint(f"127.0.0.1:{port}", version=str(port)) for port in (1, 2, 3))
    canary = policy(**{"1": 1}).canary
    endpoints = {"a": one, "b": two, "c": three}

    assert in_order("2", canary, endpoints) == [[two], [one], [three]]
    assert in_order("9", canary, endpoints) == [[one], [two, three]]
    assert in_order("", canary, endpoints) == [[one, two, three]]
    assert in_order("2", canary, {}) == []
