"""Every refusal of the shop: what programs match on, what people read, and what the contracts say of it."""

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import services
from services.chassis.errors import code_of, deadline_exceeded, internal, reason_of, to_status
from services.refusals import Refusal

CHECKOUT = Path(__file__).parents[2]
PROTOS = CHECKOUT / "protos" / "shop"
SERVICES = sorted(folder.name for folder in PROTOS.iterdir())

SHARED = {"OUT_OF_STOCK", "PRODUCT_NOT_FOUND", "RESERVATION_NOT_FOUND", "RESERVATION_RELEASED"}
"""Order hears these from Product and Inventory, and has its own words for them."""

NEVER_ANSWERED = {"order": {"RESERVATION_NOT_FOUND", "RESERVATION_RELEASED"}}
"""Only the settler meets these, and no caller of its service."""

BESIDE_CALLS = {"UNAVAILABLE/BUS_UNAVAILABLE", "UNAVAILABLE/ETCD_UNAVAILABLE"}
"""Work that no caller waits for meets these."""


def below(above: type[Refusal]) -> Iterator[type[Refusal]]:
    for refusal in above.__subclasses__():
        yield refusal
        yield from below(refusal)


def concrete() -> list[type[Refusal]]:
    """All but the kinds, and without those that tests have made."""
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    specific = [refusal for kind in Refusal.__subclasses__() for refusal in below(kind)]
    return [refusal for refusal in specific if refusal.__module__.startswith("services.")]


REFUSALS = concrete()


def answer(refusal: type[Refusal]) -> str:
    return f"{code_of(to_status(refusal(), 'shop')).name}/{refusal.reason}"


def named(service: str) -> set[str]:
    """The answers, CODE/REASON, that comments of the service's contract name."""
    comments = re.findall(r"//.*", "\n".join(proto.read_text() for proto in PROTOS.glob(f"{service}/v1/*.proto")))
    return set(re.findall(r"\b[A-Z_]+/[A-Z_]+\b", "\n".join(comments)))


def own(service: str) -> set[str]:
    """The answers that only this service gives."""
    refusals = [refusal for refusal in REFUSALS if refusal.__module__.startswith(f"services.{service}.")]
    return {answer(refusal) for refusal in refusals if refusal.reason not in NEVER_ANSWERED.get(service, ())}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.__module__}.{refusal.__name__}")
def test_a_refusal_has_a_reason_for_programs_and_a_sentence_for_people(refusal: type[Refusal]) -> None:
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", refusal.reason)
    assert re.fullmatch(r"[A-Z].+\.", refusal.message)


def test_a_reason_has_one_meaning() -> None:
    made = defaultdict[str, list[type[Refusal]]](list)
    for refusal in REFUSALS:
        if "reason" in vars(refusal):
            made[refusal.reason].append(refusal)

    assert {reason for reason, refusals in made.items() if len(refusals) > 1} == SHARED
    assert all(len({answer(refusal) for refusal in refusals}) == 1 for refusals in made.values())


@pytest.mark.parametrize("service", SERVICES)
def test_a_contract_names_what_its_service_answers_and_nothing_else(service: str) -> None:
    known = {answer(refusal) for refusal in REFUSALS}

    assert own(service) <= named(service) <= known


def test_the_readme_tells_callers_what_to_do_about_every_answer_and_nothing_else() -> None:
    foreseen = {answer(refusal) for refusal in REFUSALS} - BESIDE_CALLS
    last_words = {
        f"{code_of(said).name}/{reason_of(said)}" for said in (internal("shop", "1"), deadline_exceeded("shop"))
    }

    rows = re.findall(
        r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| .+ \| .+ \|$", (CHECKOUT / "README.md").read_text(), re.MULTILINE
    )

    assert sorted(f"{code}/{reason}" for reason, code in rows) == sorted(foreseen | last_words)
