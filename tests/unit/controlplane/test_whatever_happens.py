"""Whatever comes and goes: what Envoy was told piece by piece is what it would be told anew."""

from dataclasses import replace

from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from services.controlplane.ads import Conversation
from services.controlplane.contract import Contract
from services.controlplane.discovery import Request
from services.controlplane.model import Endpoint, Model, Seen, State
from services.controlplane.resources import HostPort, Resources, Surroundings
from services.controlplane.seeds import Seeds
from services.controlplane.snapshot import Kind, Snapshot, differences
from services.files import resource

WHOLE = Contract.read(resource("gen/descriptors.binpb").read_bytes())
# Two rpcs of each service make all kinds of resources, and a tenth of the work.
CONTRACT = replace(WHOLE, rpcs=tuple(rpc for service in ("order", "product") for rpc in WHOLE.of(service)[:2]))
SEEDS = Seeds.read(resource("etcd/seed"), CONTRACT.methods)
SURROUNDINGS = Surroundings(
    HostPort("127.0.0.1", 1), HostPort("127.0.0.1", 2), "http://issuer", "shop-api", "http://issuer/certs"
)
NOTHING = Seen({}, SEEDS.policies, {service: SEEDS.sampling_percent(service) for service in CONTRACT.services})

services = st.sampled_from(CONTRACT.services)
instances = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.builds(
        Endpoint,
        st.sampled_from([f"127.0.0.1:{port}" for port in range(1, 5)]),
        st.sampled_from(State),
        st.sampled_from(["1", "2"]),
        st.integers(0, 3).map(float),
    ),
)
documents = st.sampled_from(
    [
        b"{}",
        b'{"circuit_breaker": {"max_requests": 5}}',
        b'{"retries": {"mesh": 0}, "rate_limit": {"user": {"calls": 0}}}',
        b'{"canary": {"weights": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]}}',
    ]
)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("endpoints"), services, instances),
        st.tuples(st.just("policies"), services, documents),
        st.tuples(st.just("sampling"), services, st.sampled_from([0.0, 50.0])),
        st.tuples(st.just("wiped"), services, st.none()),
        st.tuples(st.just("refuses"), services, st.none()),
        st.tuples(st.just("moves"), services, st.none()),
    ),
    max_size=12,
)


class Envoy:
    """Applies what it is told as Envoy does: clusters and listeners whole, of the others what comes."""

    def __init__(self) -> None:
        self.has: dict[Kind, dict[str, bytes]] = {kind: {} for kind in Kind}
        self.versions = dict.fromkeys(Kind, "")
        self.conversation = Conversation()
        self.refuses = False
        """The next assignments."""

    def move(self) -> None:
        """To another control plane, with what it has."""
        self.conversation = Conversation()
        for kind in Kind:
            self._ask(kind)

    def hear(self, snapshot: Snapshot) -> None:
        """Until nothing more is said."""
        waiting, refused = set[str](), False
        while told := [DiscoveryResponse.parse(encoded) for encoded in self.conversation.say(snapshot)]:
            for response in told:
                kind = Kind(response.type_url)
                content = {_name(snapshot, kind, each.value): each.value for each in response.resources if each}
                if kind is Kind.ASSIGNMENT and self.refuses:
                    self.refuses, refused = False, True
                    self._ask(kind, response.nonce, "not today")
                    continue
                if kind is Kind.CLUSTER:
                    waiting |= {name for name in content if content[name] != self.has[kind].get(name)}
                if kind is Kind.ASSIGNMENT:
                    waiting -= content.keys()
                self.versions[kind] = response.version_info
                self.has[kind] = content if kind in {Kind.CLUSTER, Kind.LISTENER} else self.has[kind] | content
                self._ask(kind, response.nonce)
                self._ask(Kind.ASSIGNMENT, self.conversation.subscriptions[Kind.ASSIGNMENT].nonce)
        assert waiting <= {"jwks", "otlp"} or refused, f"these wait for their assignments: {waiting}"

    def _ask(self, kind: Kind, nonce: str = "", error: str | None = None) -> None:
        names = {Kind.ASSIGNMENT: self.has[Kind.CLUSTER].keys() - {"jwks", "otlp"}, Kind.ROUTES: {"edge", "mesh"}}
        wanted = frozenset(names.get(kind, ()))
        self.has[Kind.ASSIGNMENT] = {
            name: body for name, body in self.has[Kind.ASSIGNMENT].items() if name in self.has[Kind.CLUSTER]
        }
        self.conversation.hear(Request(kind.value, wanted, nonce, self.versions[kind], error))


def _name(snapshot: Snapshot, kind: Kind, body: bytes) -> str:
    return next(name for name, known in snapshot.bodies[kind].items() if known == body)


@settings(max_examples=25, deadline=None)
@given(changes)
def test_what_envoy_has_in_the_end_is_what_a_new_control_plane_would_tell(
    history: list[tuple[str, str, object]],
) -> None:
    resources, envoy = Resources(CONTRACT, SURROUNDINGS), Envoy()
    model, seen = Model().see(NOTHING, 0), NOTHING
    envoy.move()
    envoy.hear(resources.of(model))
    for at, (what, service, value) in enumerate(history):
        match what, value:
            case "endpoints", dict():
                seen = replace(seen, endpoints={**seen.endpoints, service: value})
            case "policies", bytes():
                seen = replace(seen, policies={**seen.policies, service: SEEDS.policy(service, value)})
            case "sampling", float():
                seen = replace(seen, sampling={**seen.sampling, service: value})
            case "wiped", _:
                seen = NOTHING
            case "refuses", _:
                envoy.refuses = True
            case _:
                envoy.move()
        model = model.see(seen, at * 4.0)
        envoy.hear(resources.of(model))
    # It is not told again what it refused; another control plane tries anew.
    envoy.refuses = False
    envoy.move()
    envoy.hear(resources.of(model))

    anew = Resources(CONTRACT, SURROUNDINGS).of(model)
    assert envoy.has == {kind: dict(anew.bodies[kind]) for kind in Kind}
    assert not any(differences(resources.of(model), anew).values())
