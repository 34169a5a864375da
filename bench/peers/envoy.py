"""The Envoy of the bare floor: an edge that checks tokens and an inner listener that does not, as one static file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

type Json = dict[str, Any]


def config(edge: int, inner: int, jwks: str, issuer: str, routes: Mapping[str, int]) -> str:
    """`routes` is the port of a service by the prefix of its rpcs."""
    provider = {
        "issuer": issuer,
        "audiences": ["shop-api"],
        "forward": True,
        "local_jwks": {"inline_string": jwks},
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
    }
    guard = _typed(
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"shop": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "shop"}}],
    )
    listeners = [
        _listener("edge", edge, [{"name": "jwt", "typed_config": guard}], routes),
        _listener("inner", inner, [], routes),
    ]
    clusters = [_cluster(prefix, port) for prefix, port in routes.items()]
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}})


def _listener(name: str, port: int, filters: Sequence[Json], routes: Mapping[str, int]) -> Json:
    forever = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
    table = [
        {
            "match": {"prefix": prefix},
            "route": {"cluster": prefix, "timeout": "0s", "max_stream_duration": forever},
        }
        for prefix in routes
    ]
    router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        http_filters=[*filters, router],
        route_config={"virtual_hosts": [{"name": name, "domains": ["*"], "routes": table}]},
    )
    return {
        "name": name,
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(prefix: str, port: int) -> Json:
    http2 = _typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    ends = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    return {
        "name": prefix,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": prefix, "endpoints": ends},
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(name: str, **fields: object) -> Json:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}
