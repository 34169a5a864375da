"""Defaults of policy and sampling: the seed files, of which a document in etcd holds only what differs."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.v1 import config_pb2, policy_pb2

from services.chassis.documents import DocumentRefused, effective
from services.chassis.policies import effective_policy


@dataclass(frozen=True, slots=True)
class Seeds:
    """What holds for each service as long as etcd says nothing else."""

    policies: Mapping[str, policy_pb2.Policy]
    processes: Mapping[str, config_pb2.ProcessConfig]
    methods: Mapping[str, Collection[str]]
    """Names of the rpcs that a policy can speak of, by service."""

    @classmethod
    def read(cls, folder: Path, methods: Mapping[str, Collection[str]]) -> "Seeds":
        """From etcd/seed, for these services. Each has both files; raises FileNotFoundError, DocumentRefused."""

        def document(kind: str, service: str) -> bytes:
            return (folder / kind / f"{service}.json").read_bytes()

        return cls(
            {service: effective(policy_pb2.Policy(), document("policy", service)) for service in methods},
            {
                service: effective(config_pb2.ProcessConfig(), _process(document("config", service)))
                for service in methods
            },
            methods,
        )

    def policy(self, service: str, document: bytes) -> policy_pb2.Policy:
        """The whole policy of a service, with what `document` says. Raises DocumentRefused."""
        return effective_policy(self.policies[service], document, self.methods[service])

    def sampling_percent(self, service: str, document: bytes = b"") -> float:
        """Of new traces, from a service's configuration, of which nothing else is read. Raises DocumentRefused."""
        return effective(self.processes[service], _process(document)).sampling_percent


def _process(config: bytes) -> bytes:
    """The field that all configurations have; the rest is of a message that only the service knows."""
    try:
        fields = json.loads(config or b"{}")
    except ValueError as error:
        raise DocumentRefused(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DocumentRefused("not a JSON object")
    return json.dumps(fields.get("process", {})).encode()
