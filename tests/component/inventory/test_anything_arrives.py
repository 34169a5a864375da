"""Whatever arrives, however late or often: both keepers of stock answer as the table of DESIGN says."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.chassis.database import Database
from services.inventory.domain import Lines, Reservation, Stock
from services.refusals import Refusal
from tests.component.inventory.conftest import Keeper
from tests.support.postgres import Postgres

OVER, MINUTES = timedelta(0), timedelta(minutes=10)
IDS = st.integers(1, 4).map(lambda number: UUID(int=number))
PRODUCTS = st.sampled_from(["bowl", "mug", "spoon"])
CARTS = st.lists(st.tuples(PRODUCTS, st.integers(1, 3)), min_size=1, max_size=3)
MESSAGES = st.one_of(
    st.tuples(st.just("adjust"), PRODUCTS, st.integers(-4, 9).filter(bool), st.sampled_from(["r1", "r2", "r3", "r4"])),
    st.tuples(st.just("reserve"), IDS, CARTS, st.sampled_from([OVER, MINUTES])),
    st.tuples(st.just("confirm"), st.lists(IDS, min_size=1, max_size=4, unique=True)),
    st.tuples(st.just("release"), IDS),
    st.tuples(st.just("reap")),
)
type Message = tuple[Any, ...]


@dataclass
class Known:
    """A reservation, as the table has it."""

    state: str = "none"
    lines: dict[str, int] = field(default_factory=dict)
    overdue: bool = False


class Table:
    """The table of DESIGN section 4, word by word, with the counters behind it."""

    def __init__(self) -> None:
        self.on_hand, self.reserved = Counter[str](), Counter[str]()
        self.known: dict[UUID, Known] = {}
        self.adjusted: dict[str, tuple[str, int]] = {}

    def answer(self, message: Message) -> object:
        match message:
            case ("adjust", product, delta, request_id):
                return self.adjust(product, delta, request_id)
            case ("reserve", id, cart, ttl):
                return self.reserve(self.known.setdefault(id, Known()), cart, ttl)
            case ("confirm", ids):
                return [self.confirm(self.known.setdefault(id, Known())) for id in ids]
            case ("release", id):
                return self.release(self.known.setdefault(id, Known()))
            case _:
                for known in self.known.values():
                    if known.state == "HELD" and known.overdue:
                        self.reserved.subtract(known.lines)
                        known.state = "EXPIRED"
                return None

    def adjust(self, product: str, delta: int, request_id: str) -> object:
        made = self.adjusted.get(request_id)
        if made not in (None, (product, delta)):
            return "REQUEST_ID_REUSED", ""
        if made is None:
            if self.on_hand[product] + delta < self.reserved[product]:
                return "STOCK_BELOW_RESERVED", ""
            self.adjusted[request_id] = product, delta
            self.on_hand[product] += delta
        return self.on_hand[product], self.reserved[product]

    def reserve(self, known: Known, cart: Sequence[tuple[str, int]], ttl: timedelta) -> object:
        lines = Counter[str]()
        for product, quantity in cart:
            lines[product] += quantity
        if known.lines and known.lines != lines:
            return "RESERVATION_DIFFERS", ""
        match known.state:
            case "RELEASED":
                return "RESERVATION_RELEASED", ""
            case "CONFIRMED":
                return "CONFIRMED", known.lines
            case "none" | "EXPIRED":
                if short := self.short(lines):
                    return "OUT_OF_STOCK", short
                self.reserved.update(lines)
                known.lines, known.overdue = dict(lines), True
            case _:
                pass
        known.state, known.overdue = "HELD", known.overdue and ttl == OVER
        return "HELD", known.lines

    def confirm(self, known: Known) -> object:
        match known.state:
            case "none":
                return "RESERVATION_NOT_FOUND", ""
            case "RELEASED":
                return "RESERVATION_RELEASED", ""
            case "EXPIRED":
                if short := self.short(known.lines):
                    return "OUT_OF_STOCK", short
                self.on_hand.subtract(known.lines)
            case "HELD":
                self.on_hand.subtract(known.lines)
                self.reserved.subtract(known.lines)
            case _:
                pass
        known.state = "CONFIRMED"
        return "CONFIRMED", known.lines

    def release(self, known: Known) -> object:
        if known.state == "HELD":
            self.reserved.subtract(known.lines)
        if known.state == "CONFIRMED":
            self.on_hand.update(known.lines)
        known.state = "RELEASED"
        return "RELEASED", known.lines

    def short(self, lines: dict[str, int]) -> str:
        for product, quantity in sorted(lines.items()):
            if (available := self.on_hand[product] - self.reserved[product]) < quantity:
                return f"{quantity} of {product}, {available} available"
        return ""


async def answered(keeper: Keeper, message: Message) -> object:
    """What the keeper says, in the words of the table."""
    try:
        match message:
            case ("adjust", product, delta, request_id):
                return told(await keeper.stocks.adjust(product, delta, "carol", request_id))
            case ("reserve", id, cart, ttl):
                return told(await keeper.warehouse.reserve(id, Lines.of(cart), ttl))
            case ("confirm", ids):
                return [told(result) for result in await keeper.warehouse.confirm(ids)]
            case ("release", id):
                return told(await keeper.warehouse.release(id))
            case _:
                while await keeper.warehouse.lapse_one():
                    pass
                return None
    except Refusal as refusal:
        return told(refusal)


def told(result: Stock | Reservation | Refusal) -> object:
    match result:
        case Stock():
            return result.on_hand, result.reserved
        case Reservation():
            return result.state.value, dict(result.lines.items)
        case Refusal(reason="OUT_OF_STOCK", facts=facts):
            product = facts["product"].removeprefix("products/")
            return result.reason, f"{facts['requested']} of {product}, {facts['available']} available"
    return result.reason, ""


class AnythingArrives(RuleBasedStateMachine):
    """Messages arrive at once, or some other time, or more than once, or never."""

    loop: asyncio.AbstractEventLoop
    make: Callable[[], Awaitable[Keeper]]
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.table, self.keeper = Table(), self.loop.run_until_complete(type(self).make())
        for product in ("bowl", "mug"):
            self.arrives(("adjust", product, 3, f"first of {product}"))

    @rule(target=sent, message=MESSAGES)
    def is_sent_and_does_not_arrive(self, message: Message) -> Message:
        return message

    @rule(target=sent, message=MESSAGES)
    def arrives_at_once(self, message: Message) -> Message:
        self.arrives(message)
        return message

    @rule(message=sent)
    def arrives(self, message: Message) -> None:
        assert self.loop.run_until_complete(answered(self.keeper, message)) == self.table.answer(message)

    @invariant()
    def counters_ledger_and_holds_agree(self) -> None:
        self.loop.run_until_complete(self.keeper.require_consistent())


def run(runner: asyncio.Runner, make: Callable[[], Awaitable[Keeper]], chances: settings) -> None:
    machine = type("AnythingArrives", (AnythingArrives,), {"loop": runner.get_loop(), "make": staticmethod(make)})
    # How long it takes to draw the steps says more about the machine than about the shop.
    patient = settings(chances, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=patient)


def test_in_memory() -> None:
    async def make() -> Keeper:
        return Keeper.in_memory()

    with asyncio.Runner() as runner:
        run(runner, make, settings(max_examples=30, stateful_step_count=40))


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.make("services.inventory")


def test_in_postgresql(url: str) -> None:
    with asyncio.Runner() as runner:
        database = runner.run(Database.connect(url))

        async def make() -> Keeper:
            await database.execute("truncate stock, reservations, ledger, adjustments")
            return Keeper.in_sql(database)

        try:
            run(runner, make, settings(max_examples=10, stateful_step_count=40))
        finally:
            runner.run(database.close())
