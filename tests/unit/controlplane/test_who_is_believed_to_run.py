"""Endpoints that vanish are held until it is certain that they are gone."""

from collections.abc import Mapping, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from services.controlplane.model import LEASE_TTL_S, Endpoint, Model, Name, Seen, State

ONE, TWO = Name("product", "product"), Name("product", "product-2")
OTHER = Name("order", "order")
AT_ONE, AT_TWO = Endpoint("127.0.0.1:1001"), Endpoint("127.0.0.1:1002")
DRAINING = Endpoint("127.0.0.1:1001", State.DRAINING)


def seen(records: Mapping[Name, Endpoint]) -> Seen:
    """What etcd says, when it says this."""
    services = {name.service for name in records}
    return Seen({of: {name.instance: at for name, at in records.items() if name.service == of} for of in services})


def told(*said: tuple[float, dict[Name, Endpoint]]) -> Model:
    """A model that has seen these endpoints at these times."""
    model = Model()
    for at, endpoints in said:
        model = model.see(seen(endpoints), at)
    return model


def test_a_service_that_was_never_seen_has_no_endpoints() -> None:
    model = told((0, {}))

    assert model.of("product") == {}
    assert not model.ready("product")


def test_an_endpoint_that_drained_leaves_at_once() -> None:
    model = told((0, {ONE: AT_ONE, TWO: AT_TWO}), (1, {ONE: DRAINING, TWO: AT_TWO}), (2, {TWO: AT_TWO}))

    assert model.of("product") == {"product-2": AT_TWO}


def test_a_draining_endpoint_is_not_ready() -> None:
    assert not told((0, {ONE: DRAINING})).ready("product")


def test_an_endpoint_that_vanished_is_held_until_its_service_was_registered_for_a_lease() -> None:
    model = told((0, {ONE: AT_ONE, TWO: AT_TWO}), (5, {TWO: AT_TWO}))

    assert model.next_change == 5 + LEASE_TTL_S
    assert set(model.settled(5 + LEASE_TTL_S - 0.1).of("product")) == {"product", "product-2"}
    assert set(model.settled(5 + LEASE_TTL_S).of("product")) == {"product-2"}


def test_a_wiped_etcd_takes_nobody_away() -> None:
    wiped = told((0, {ONE: AT_ONE, TWO: AT_TWO}), (100, {}))

    assert wiped.next_change is None
    assert set(wiped.settled(1e6).of("product")) == {"product", "product-2"}


def test_after_a_wipe_the_lease_counts_from_the_first_registration() -> None:
    back = told((0, {ONE: AT_ONE, TWO: AT_TWO}), (100, {}), (500, {ONE: AT_ONE}))

    assert set(back.settled(500 + LEASE_TTL_S - 0.1).of("product")) == {"product", "product-2"}
    assert set(back.settled(500 + LEASE_TTL_S).of("product")) == {"product"}


def test_another_service_says_nothing_about_this_one() -> None:
    model = told((0, {ONE: AT_ONE, OTHER: AT_TWO}), (5, {OTHER: AT_TWO}))

    assert model.settled(1e6).of("product") == {"product": AT_ONE}


def test_a_record_that_takes_the_address_ends_the_hold() -> None:
    model = told((0, {ONE: AT_ONE}), (5, {TWO: AT_ONE}))

    assert model.of("product") == {"product-2": AT_ONE}


def test_an_instance_that_comes_back_elsewhere_has_one_address() -> None:
    model = told((0, {ONE: AT_ONE}), (5, {ONE: AT_TWO}))

    assert model.of("product") == {"product": AT_TWO}


def test_an_older_record_under_the_same_name_is_believed_only_when_the_younger_would_be_back() -> None:
    old, young = Endpoint("127.0.0.1:1001", start_time=1), Endpoint("127.0.0.1:1002", start_time=2)
    restored = told((0, {ONE: old}), (50, {ONE: young}), (100, {ONE: old}))

    assert restored.of("product") == {"product": young}
    assert restored.see(seen({ONE: young}), 103).next_change is None
    assert restored.settled(100 + LEASE_TTL_S - 0.1).of("product") == {"product": young}
    assert restored.settled(100 + LEASE_TTL_S).of("product") == {"product": old}


def test_of_two_records_with_one_address_the_later_start_is_believed() -> None:
    before, after = Endpoint("127.0.0.1:1001", start_time=1), Endpoint("127.0.0.1:1001", start_time=2)
    model = told((0, {ONE: after, TWO: before}))

    assert model.of("product") == {"product": after}


def test_a_restart_holds_what_was_known_until_etcd_has_told() -> None:
    before = told((0, {ONE: AT_ONE, TWO: Endpoint("127.0.0.1:1003", State.DRAINING)}))

    restored = Model.restored(before.remembered, 1000)

    assert restored.settled(1e6).of("product") == {"product": AT_ONE}
    back = restored.see(seen({TWO: AT_TWO}), 1001)
    assert set(back.of("product")) == {"product", "product-2"}
    assert set(back.settled(1001 + LEASE_TTL_S).of("product")) == {"product-2"}


RECORDS = st.dictionaries(
    st.sampled_from([ONE, TWO, OTHER]),
    st.builds(
        Endpoint,
        st.sampled_from(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]),
        st.sampled_from(State),
        start_time=st.integers(0, 3).map(float),
    ),
)


@given(st.lists(RECORDS, max_size=8))
def test_whatever_happens_addresses_are_unique_and_what_is_believed_is_served(
    history: Sequence[dict[Name, Endpoint]],
) -> None:
    model = told(*((float(at * 4), endpoints) for at, endpoints in enumerate(history)))

    served = {Name(of, name): at for of, instances in model.endpoints.items() for name, at in instances.items()}
    addresses = [endpoint.address for endpoint in served.values()]
    assert len(addresses) == len(set(addresses))
    now = history[-1] if history else {}
    believed = {name: max(at, served.get(name, at), key=lambda one: one.start_time) for name, at in now.items()}
    assert {endpoint.address for endpoint in believed.values()} <= set(addresses)
    assert all(name in now or endpoint.state is State.READY for name, endpoint in served.items())


@given(st.lists(RECORDS, max_size=8))
@example(
    [
        {ONE: Endpoint("127.0.0.1:2", start_time=1), TWO: Endpoint("127.0.0.1:1", start_time=2)},
        {
            ONE: Endpoint("127.0.0.1:1", start_time=0),
            TWO: Endpoint("127.0.0.1:2", State.DRAINING, start_time=1),
            OTHER: Endpoint("127.0.0.1:1", start_time=0),
        },
    ]
)
def test_whoever_has_to_leave_leaves_at_once_also_when_another_one_leaving_is_why(
    history: Sequence[dict[Name, Endpoint]],
) -> None:
    model = told(*((float(at * 4), endpoints) for at, endpoints in enumerate(history)))

    assert model.settled(len(history) * 4 - 4) is model


@given(st.lists(RECORDS, min_size=1, max_size=8))
def test_a_ready_service_stays_ready_whatever_etcd_forgets(history: Sequence[dict[Name, Endpoint]]) -> None:
    model = told(*((float(at), endpoints) for at, endpoints in enumerate(history)))

    forgotten = model.see(Seen(), 1000)

    for service in ("product", "order"):
        assert forgotten.ready(service) == model.ready(service)
