"""How often anybody outside may call (local_ratelimit), per service.

A route says in its metadata of which service its calls are, and whether they are counted by user or by address; the
virtual host holds the buckets. So all rpcs of a service draw from one, and the filter itself never changes.
"""

import math
from collections.abc import Iterable
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
from mesh.v1 import policy_pb2

from services.controlplane.resources.access import JWT_AUTHN, SUBJECT
from services.controlplane.resources.encoding import struct
from services.controlplane.resources.stencils import BLANKS, stencil

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


def limits(buckets: Iterable[bytes]) -> bytes:
    """What LOCAL_RATELIMIT is to do on a virtual host: buckets_of each service, joined."""
    return _limits().filled() + b"".join(buckets)


@stencil
def _limits() -> LocalRateLimit:
    retry_after = HeaderValue(key="retry-after", value=f"%METADATA(ROUTE:{_ROUTE}:{_RETRY_AFTER})%")
    return LocalRateLimit(
        stat_prefix="edge",
        token_bucket=_BOTTOMLESS,
        always_consume_default_token_bucket=False,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limits=[_counted(_USER, _by_subject()), _counted(_ADDRESS, _by_address())],
        max_dynamic_descriptors=_CALLERS,
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[HeaderValueOption(header=retry_after)],
    )


def buckets_of(service: str, limit: policy_pb2.RateLimit) -> bytes:
    """One for each caller and kind of call; none where there is no limit."""
    return b"".join(
        _buckets(whose, bucket).filled(service)
        for whose, bucket in ((_USER, limit.user), (_ADDRESS, limit.address))
        if bucket.calls
    )


@stencil
def _buckets(whose: str, bucket: policy_pb2.TokenBucket) -> LocalRateLimit:
    return LocalRateLimit(
        descriptors=[
            LocalRateLimitDescriptor(
                # A key without a value stands for every value by itself.
                entries=[
                    RateLimitDescriptorEntry(key="service", value=BLANKS[0]),
                    RateLimitDescriptorEntry(key=_KEYS[whose]),
                ],
                token_bucket=TokenBucket(
                    max_tokens=bucket.burst, tokens_per_fill=bucket.calls, fill_interval=bucket.per.ToTimedelta()
                ),
            )
        ]
    )


def counted_by(*, user: bool) -> Metadata:
    """For a route: its calls are counted for the person who calls, or for the address that they come from.

    BLANKS: the service, and after how long an empty bucket has a token again.
    """
    whose = _USER if user else _ADDRESS
    return Metadata(filter_metadata={_ROUTE: struct({whose: BLANKS[0], _RETRY_AFTER: BLANKS[1]})})


def wait(bucket: policy_pb2.TokenBucket) -> str:
    """How long an empty bucket has no token, in whole seconds."""
    return str(math.ceil(bucket.per.ToTimedelta().total_seconds() / max(1, bucket.calls)))


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


def _path(root: str, *keys: str) -> MetadataKey:
    return MetadataKey(key=root, path=[MetadataKeyPathSegment(key=key) for key in keys])
