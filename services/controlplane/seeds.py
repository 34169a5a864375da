"""Defaults of policy and sampling: the seed files, of which a document in etcd holds only what differs."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from mesh.v1 import config_pb2, policy_pb2

from services.chassis.messages import overlaid, violations
from services.chassis.policies import unusable


class BadDocument(ValueError):
    """A document that cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """What holds for each service as long as etcd says nothing else."""

    policies: Mapping[str, policy_pb2.Policy]
    processes: Mapping[str, config_pb2.ProcessConfig]
    methods: Mapping[str, Collection[str]]
    """Names of the rpcs that a policy can speak of, by service."""

    @classmethod
    def read(cls, folder: Path, methods: Mapping[str, Collection[str]]) -> "Seeds":
        """From etcd/seed, for these services. Each has both files; raises FileNotFoundError, BadDocument."""
        services = [*methods]
        return cls(
            {
                service: parsed((folder / "policy" / f"{service}.json").read_bytes(), policy_pb2.Policy())
                for service in services
            },
            {service: _process((folder / "config" / f"{service}.json").read_bytes()) for service in services},
            methods,
        )

    def policy(self, service: str, document: bytes) -> policy_pb2.Policy:
        """The whole policy of a service, with what `document` says. Raises BadDocument.

        The one place that says whether a policy is good, before it is put and when it is read.
        """
        policy = parsed(document, policy_pb2.Policy())
        _refuse(unusable(policy, self.methods[service]))
        return overlaid(self.policies[service], policy)

    def sampling_percent(self, service: str, document: bytes = b"{}") -> float:
        """Of new traces, from a service's configuration, of which nothing else is read. Raises BadDocument."""
        return overlaid(self.processes[service], _process(document)).sampling_percent


def parsed[M: Message](document: bytes, message: M) -> M:
    """Protobuf-JSON, within the limits of the contract. Raises BadDocument."""
    return _filled(_object(document), message)


def _process(config: bytes) -> config_pb2.ProcessConfig:
    return _filled(_object(config).get("process", {}), config_pb2.ProcessConfig())


def _object(document: bytes) -> dict[str, Any]:
    try:
        value = json.loads(document)
    except ValueError as error:
        raise BadDocument(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadDocument("not a JSON object")
    return value


def _filled[M: Message](fields: dict[str, Any], message: M) -> M:
    try:
        json_format.ParseDict(fields, message)
    except json_format.ParseError as error:
        raise BadDocument(str(error)) from error
    _refuse(violations(message))
    return message


def _refuse(wrong: Sequence[tuple[str, str]]) -> None:
    if wrong:
        raise BadDocument("; ".join(f"{field}: {why}" for field, why in wrong))
