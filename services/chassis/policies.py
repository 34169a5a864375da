"""What is wrong with a policy beyond the shape of its fields."""

from collections.abc import Collection, Iterator

from mesh.v1 import policy_pb2


def unusable(policy: policy_pb2.Policy, methods: Collection[str]) -> list[tuple[str, str]]:
    """Path of the field, and why; `methods` are the names of the service's rpcs."""
    return [*_unknown(policy, methods), *_unreached(policy)]


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
