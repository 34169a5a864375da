"""Filling in a stencil makes what encoding the whole message would make."""

import pytest
from envoy_data_plane.envoy.config.core.v3 import DataSource, HealthStatus
from envoy_data_plane.envoy.config.endpoint.v3 import Endpoint, LbEndpoint
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteMatch,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from services.controlplane.resources.encoding import address, packed
from services.controlplane.resources.stencils import BLANKS, NUMBER, Stencil, stencil

# Lengths of one byte and of two.
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=200)


def route(name: str, path: str, cluster: str) -> Route:
    return Route(
        name=name,
        match=RouteMatch(path=path),
        route=RouteAction(weighted_clusters=WeightedCluster(clusters=[WeightedClusterClusterWeight(name=cluster)])),
        typed_per_filter_config={"filter": packed(RouteMatch(path=name))},
    )


@settings(deadline=None)
@given(texts.filter(bool), texts, texts.filter(bool))
def test_texts_are_filled_in_at_any_depth(name: str, path: str, cluster: str) -> None:
    assert Stencil(bytes(route(*BLANKS))).filled(name, path, cluster) == bytes(route(name, path, cluster))


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(1, 2**16 - 1))
def test_a_number_is_filled_in(host: object, port: int) -> None:
    def endpoint(host: str, port: int) -> bytes:
        return bytes(LbEndpoint(endpoint=Endpoint(address=address(host, port)), health_status=HealthStatus.DRAINING))

    assert Stencil(endpoint(BLANKS[0], NUMBER)).filled(str(host), number=port) == endpoint(str(host), port)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_filled_in(body: bytes) -> None:
    def document(body: bytes) -> bytes:
        return bytes(Route(name="a", direct_response=DirectResponseAction(200, DataSource(inline_bytes=body))))

    assert Stencil(document(BLANKS[0].encode())).filled(body) == document(body)


@pytest.mark.parametrize("text", [f"/{BLANKS[0]}", f"{BLANKS[0]}/", f"a{BLANKS[1]}", f"regex: {BLANKS[0]}"])
def test_a_blank_within_a_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a blank within a text"):
        Stencil(bytes(Route(name=text)))


def test_a_message_is_made_once_for_the_same_arguments() -> None:
    made = list[str]()

    @stencil
    def match(prefix: str, *, many: bool) -> RouteMatch:
        made.append(f"{prefix} {many}")
        return RouteMatch(prefix=prefix)

    filled = [match(prefix, many=many).filled() for prefix in ("/a", "/b") for many in (True, False, True)]

    assert made == ["/a True", "/a False", "/b True", "/b False"]
    assert filled == [bytes(RouteMatch(prefix=prefix)) for prefix in ("/a", "/b") for _ in range(3)]
