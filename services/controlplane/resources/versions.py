"""Which clusters a service has, and which of its instances each of them uses.

`order` is every instance. `order@2.0` is version 2.0, where the policy names it in its canary; `order/streams` is for
streaming rpcs, of the same instances with limits of its own.
"""

from collections.abc import Collection, Iterable, Mapping

from mesh.v1 import policy_pb2

from services.controlplane.model import Endpoint

_STREAMS = "/streams"


def cluster_name(service: str, version: str = "", *, streaming: bool = False) -> str:
    """`version` is empty for every instance."""
    return f"{service}{f'@{version}' if version else ''}{_STREAMS if streaming else ''}"


def versions_of(canary: policy_pb2.Canary) -> tuple[str, ...]:
    """Empty for every instance, then the versions that are named, sorted."""
    named = {each.version for each in canary.weights} | {each.version for each in canary.matches}
    return ("", *sorted(named))


def in_order(version: str, canary: policy_pb2.Canary, endpoints: Mapping[str, Endpoint]) -> list[list[Endpoint]]:
    """The instances that the cluster of a version uses, the best first; each group only when those before are not well.

    First the version itself, then what has a weight, then all others. Envoy itself goes from group to group, by its own
    health checks and ejections: a version that crashes, or never comes, loses no call, whoever else is away.
    """
    if not version:
        return [[*endpoints.values()]] if endpoints else []
    weighted = {each.version for each in canary.weights if each.weight} - {version}
    groups = [
        _among(endpoints.values(), {version}),
        _among(endpoints.values(), weighted),
        [endpoint for endpoint in endpoints.values() if endpoint.version not in {version, *weighted}],
    ]
    return [group for group in groups if group]


def _among(endpoints: Iterable[Endpoint], versions: Collection[str]) -> list[Endpoint]:
    return [endpoint for endpoint in endpoints if endpoint.version in versions]
