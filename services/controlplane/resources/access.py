"""Who may come in by the edge: tokens (jwt_authn) and roles (RBAC), per rpc.

The filters themselves never change: a changed filter reaches new connections only. What differs per rpc hangs on its
route.
"""

from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import HttpUri
from envoy_data_plane.envoy.config.rbac.v3 import (
    MetadataSource,
    Permission,
    Policy,
    Principal,
    Rbac,
    RbacAction,
    SourcedMetadata,
)
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwksAsyncFetch,
    JwtAuthentication,
    JwtCacheConfig,
    JwtProvider,
    JwtRequirement,
    JwtRequirementOrList,
    PerRouteConfig,
    RemoteJwks,
)
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac as RbacFilter
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import RbacPerRoute
from envoy_data_plane.envoy.type.matcher.v3 import (
    ListMatcher,
    MetadataMatcher,
    MetadataMatcherPathSegment,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.google.protobuf import Any, Empty

from services.controlplane.resources.clusters import JWKS
from services.controlplane.resources.encoding import packed
from services.controlplane.resources.surroundings import Surroundings

JWT_AUTHN = "envoy.filters.http.jwt_authn"
RBAC = "envoy.filters.http.rbac"

_PROVIDER = "issuer"
_PAYLOAD = "jwt"
SUBJECT = (_PAYLOAD, "sub")
"""Where in the dynamic metadata of JWT_AUTHN the caller's id is."""
_NEEDED = "needed"
_OPTIONAL = "optional"

_JWKS_TIMEOUT = timedelta(seconds=2)
# A key that the issuer begins to use is accepted after this time at the latest.
_JWKS_EVERY = timedelta(seconds=30)
_JWKS_RETRY = timedelta(seconds=1)
_CLOCK_SKEW_S = 5


def jwt_filter(surroundings: Surroundings) -> betterproto2.Message:
    """Verifies tokens of the one issuer. Which requirement holds is named by the route."""
    provider = JwtProvider(
        issuer=surroundings.issuer,
        audiences=[surroundings.audience],
        require_expiration=True,
        clock_skew_seconds=_CLOCK_SKEW_S,
        # Services verify again by themselves.
        forward=True,
        payload_in_metadata=_PAYLOAD,
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=1000),
        remote_jwks=RemoteJwks(
            http_uri=HttpUri(uri=surroundings.jwks_url, cluster=JWKS, timeout=_JWKS_TIMEOUT),
            cache_duration=_JWKS_EVERY,
            # Fetched ahead of the calls and kept through an outage; listeners do not wait for the issuer.
            async_fetch=JwksAsyncFetch(fast_listener=True, failed_refetch_duration=_JWKS_RETRY),
        ),
    )
    valid = JwtRequirement(provider_name=_PROVIDER)
    valid_or_none = JwtRequirement(
        requires_any=JwtRequirementOrList(requirements=[valid, JwtRequirement(allow_missing=Empty())])
    )
    return JwtAuthentication(
        providers={_PROVIDER: provider},
        requirement_map={_NEEDED: valid, _OPTIONAL: valid_or_none},
        bypass_cors_preflight=True,
    )


def rbac_filter() -> betterproto2.Message:
    """Lets everything pass that no route restricts: the router refuses what has no route."""
    return RbacFilter()


def for_anybody() -> dict[str, Any]:
    """No token is needed; one that is sent must be valid."""
    return {JWT_AUTHN: packed(PerRouteConfig(requirement_name=_OPTIONAL))}


def for_nobody() -> dict[str, Any]:
    """No call passes."""
    return {RBAC: packed(RbacPerRoute(rbac=RbacFilter(rules=Rbac(action=RbacAction.ALLOW))))}


def for_roles(roles: tuple[str, ...]) -> dict[str, Any]:
    """A valid token that carries one of the realm roles."""
    rule = Policy(permissions=[Permission(any=True)], principals=[_has_role(role) for role in roles])
    rbac = Rbac(action=RbacAction.ALLOW, policies={"roles": rule})
    return {
        JWT_AUTHN: packed(PerRouteConfig(requirement_name=_NEEDED)),
        RBAC: packed(RbacPerRoute(rbac=RbacFilter(rules=rbac))),
    }


def _has_role(role: str) -> Principal:
    claim = (_PAYLOAD, "realm_access", "roles")
    return Principal(
        sourced_metadata=SourcedMetadata(
            metadata_source=MetadataSource.DYNAMIC,
            metadata_matcher=MetadataMatcher(
                filter=JWT_AUTHN,
                path=[MetadataMatcherPathSegment(key=key) for key in claim],
                value=ValueMatcher(list_match=ListMatcher(one_of=ValueMatcher(string_match=StringMatcher(exact=role)))),
            ),
        )
    )
