"""How often anybody outside may call (local_ratelimit), per service.

A route says in its metadata of which service its calls are, and whether they are counted by user or by address; the
virtual host holds the buckets. So all rpcs of a service draw from one, and the filter itself never changes.
"""

import math
from collections.abc import Mapping
from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    Metadata,
    RuntimeFractionalPercent,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RateLimit,
    RateLimitAction,
    RateLimitActionMaskedRemoteAddress,
    RateLimitActionMetaData,
    RateLimitActionMetaDataSource,
)
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import LocalRateLimitDescriptor, RateLimitDescriptorEntry
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import FractionalPercent, TokenBucket
from envoy_data_plane.google.protobuf import Any
from mesh.v1 import policy_pb2

from services.controlplane.resources.access import JWT_AUTHN, SUBJECT
from services.controlplane.resources.encoding import packed, struct

LOCAL_RATELIMIT = "envoy.filters.http.local_ratelimit"

_USER, _ADDRESS = "user", "address"
# Envoy's own name for the descriptor of an address without its host part.
_KEYS = {_USER: "user", _ADDRESS: "masked_remote_address"}
# Per service and kind; of more callers than this at a time, the one that was quiet longest begins with a full bucket.
# Envoy's default of 20 would refuse nobody as soon as 21 take turns.
_CALLERS = 10_000
# A caller with IPv6 has at least this many addresses.
_IPV6_NETWORK = 64
# Envoy insists on a bucket for calls that nobody counts; this one is never empty.
_BOTTOMLESS = TokenBucket(max_tokens=2**32 - 1, tokens_per_fill=2**32 - 1, fill_interval=timedelta(milliseconds=50))
_ALWAYS = RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100))
_ROUTE = "shopmesh"
_RETRY_AFTER = "retry_after"


def limits_filter() -> betterproto2.Message:
    """Limits nothing that the virtual host does not limit."""
    return LocalRateLimit(stat_prefix="edge")


def limits(by_service: Mapping[str, policy_pb2.RateLimit]) -> dict[str, Any]:
    """For the virtual host: a bucket for everybody, for each service."""
    buckets = [
        bucket
        for service, limit in sorted(by_service.items())
        for bucket in (_buckets(service, _USER, limit.user), _buckets(service, _ADDRESS, limit.address))
        if bucket is not None
    ]
    retry_after = HeaderValue(key="retry-after", value=f"%METADATA(ROUTE:{_ROUTE}:{_RETRY_AFTER})%")
    return {
        LOCAL_RATELIMIT: packed(
            LocalRateLimit(
                stat_prefix="edge",
                token_bucket=_BOTTOMLESS,
                always_consume_default_token_bucket=False,
                filter_enabled=_ALWAYS,
                filter_enforced=_ALWAYS,
                rate_limits=[_counted(_USER, _by_subject()), _counted(_ADDRESS, _by_address())],
                descriptors=buckets,
                max_dynamic_descriptors=_CALLERS,
                rate_limited_as_resource_exhausted=True,
                response_headers_to_add=[HeaderValueOption(header=retry_after)],
            )
        )
    }


def by_user(service: str, limit: policy_pb2.RateLimit) -> Metadata:
    """For a route: its calls are counted for the person who calls."""
    return _route(service, _USER, limit.user)


def by_address(service: str, limit: policy_pb2.RateLimit) -> Metadata:
    """For a route: its calls are counted for the address that they come from."""
    return _route(service, _ADDRESS, limit.address)


def _route(service: str, whose: str, bucket: policy_pb2.TokenBucket) -> Metadata:
    # An empty bucket has a token again after so many seconds.
    wait_s = math.ceil(bucket.per.ToTimedelta().total_seconds() / max(1, bucket.calls))
    return Metadata(filter_metadata={_ROUTE: struct({whose: service, _RETRY_AFTER: str(wait_s)})})


def _counted(whose: str, who: RateLimitAction) -> RateLimit:
    """Routes that do not count in this way have no value here, and so make no descriptor."""
    service = RateLimitActionMetaData(
        descriptor_key="service",
        metadata_key=_path(_ROUTE, whose),
        source=RateLimitActionMetaDataSource.ROUTE_ENTRY,
    )
    return RateLimit(actions=[RateLimitAction(metadata=service), who])


def _by_subject() -> RateLimitAction:
    """From the token that jwt_authn has verified: no header can say otherwise."""
    return RateLimitAction(
        metadata=RateLimitActionMetaData(
            descriptor_key=_KEYS[_USER],
            metadata_key=_path(JWT_AUTHN, *SUBJECT),
            source=RateLimitActionMetaDataSource.DYNAMIC,
            # Tokens without a subject share a bucket; services refuse them all.
            default_value="nobody",
        )
    )


def _by_address() -> RateLimitAction:
    """From the connection: no header can say otherwise."""
    return RateLimitAction(masked_remote_address=RateLimitActionMaskedRemoteAddress(v6_prefix_mask_len=_IPV6_NETWORK))


def _buckets(service: str, whose: str, bucket: policy_pb2.TokenBucket) -> LocalRateLimitDescriptor | None:
    """One for each caller; None where there is no limit."""
    if not bucket.calls:
        return None
    return LocalRateLimitDescriptor(
        # A key without a value stands for every value by itself.
        entries=[
            RateLimitDescriptorEntry(key="service", value=service),
            RateLimitDescriptorEntry(key=_KEYS[whose]),
        ],
        token_bucket=TokenBucket(
            max_tokens=bucket.burst, tokens_per_fill=bucket.calls, fill_interval=bucket.per.ToTimedelta()
        ),
    )


def _path(root: str, *keys: str) -> MetadataKey:
    return MetadataKey(key=root, path=[MetadataKeyPathSegment(key=key) for key in keys])
