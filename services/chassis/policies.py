"""Policies, looked at in one way by those who write and those who read them."""

from collections.abc import Collection, Iterator

from mesh.v1 import policy_pb2

from services.chassis.documents import DocumentRefused, effective


def effective_policy(defaults: policy_pb2.Policy, document: bytes, methods: Collection[str]) -> policy_pb2.Policy:
    """The defaults with what the document says instead, whole; `methods` are the names of the service's rpcs.

    Raises DocumentRefused, also for what is wrong beyond the shape of the fields.
    """
    policy = effective(defaults, document)
    if wrong := [*_unknown(policy, methods), *_unreached(policy)]:
        raise DocumentRefused.because(wrong)
    return policy


def _unknown(policy: policy_pb2.Policy, methods: Collection[str]) -> Iterator[tuple[str, str]]:
    named = [(f"rpcs[{method!r}]", method) for method in sorted(policy.rpcs)]
    named += [
        (f"faults[{at}].rpcs[{number}]", method)
        for at, fault in enumerate(policy.faults)
        for number, method in enumerate(fault.rpcs)
    ]
    for field, method in named:
        if method not in methods:
            yield field, f"the service has no rpc {method!r}: it has {', '.join(sorted(methods))}"


def _unreached(policy: policy_pb2.Policy) -> Iterator[tuple[str, str]]:
    """A fault behind one that takes all of its calls: who wrote it waits for it in vain."""
    for at, fault in enumerate(policy.faults):
        for before, other in enumerate(policy.faults[:at]):
            same_calls = not other.HasField("header") or (fault.HasField("header") and other.header == fault.header)
            if same_calls and (not other.rpcs or (fault.rpcs and set(fault.rpcs) <= set(other.rpcs))):
                yield f"faults[{at}]", f"never made: faults[{before}] holds for the same calls"
                break
