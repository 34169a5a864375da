"""What was seen last, on disk: a control plane that starts while etcd is away goes on with it."""

from pathlib import Path

import orjson
from google.protobuf import json_format
from mesh.v1 import policy_pb2

from services.chassis import logs
from services.controlplane.model import Endpoint, Seen, State

_log = logs.get()


def save(path: Path, seen: Seen) -> None:
    """Replaces the file whole: a crash leaves the old one or the new one."""
    document = {
        "endpoints": [
            [service, instance, endpoint.address, endpoint.state.value, endpoint.version, endpoint.start_time]
            for service, instances in sorted(seen.endpoints.items())
            for instance, endpoint in sorted(instances.items())
        ],
        "policies": {
            service: json_format.MessageToDict(policy, preserving_proto_field_name=True)
            for service, policy in seen.policies.items()
        },
        "sampling": dict(seen.sampling),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(orjson.dumps(document))
    part.replace(path)


def load(path: Path, services: frozenset[str]) -> Seen | None:
    """None when there is none, when it cannot be read, or when it lacks a service of today's contracts."""
    try:
        document = orjson.loads(path.read_bytes())
        endpoints: dict[str, dict[str, Endpoint]] = {}
        for service, instance, address, state, version, start_time in document["endpoints"]:
            endpoints.setdefault(service, {})[instance] = Endpoint(address, State(state), version, start_time)
        seen = Seen(
            endpoints,
            {
                service: json_format.ParseDict(policy, policy_pb2.Policy())
                for service, policy in document["policies"].items()
            },
            {service: float(percent) for service, percent in document["sampling"].items()},
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, json_format.ParseError) as error:
        _log.warning("last good model not usable", path=str(path), error=str(error))
        return None
    return seen if seen.policies.keys() >= services and seen.sampling.keys() >= services else None
