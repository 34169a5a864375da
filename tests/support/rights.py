"""Who may call what: every rpc of the contract, by every kind of caller, on every way in; and what should come of it.

What is expected comes from the rules in the contract alone. Each call sends bytes that are no message of any rpc:
whoever is let in hears exactly that, and nothing is changed; whoever is not must be told so before anybody looks at
what they sent.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import product

import grpc

from tests.support.contract import Rpc
from tests.support.refused import Refused, outcome
from tests.support.waiting import DEADLINE_S, eventually

NO_MESSAGE = b"\xff"
AT_ONCE = 16

ADMITTED = Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
UNROUTED = Refused(grpc.StatusCode.UNIMPLEMENTED)
SAYS_NOTHING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Of rights."""
# Envoy's own refusals carry no ErrorInfo: which is how they are told from those of a service.
NO_TOKEN = Refused(grpc.StatusCode.UNAUTHENTICATED)
DENIED = Refused(grpc.StatusCode.PERMISSION_DENIED)
TOKEN_INVALID = Refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


class Token(Enum):
    """What a caller brings."""

    NONE = auto()
    BAD = auto()
    FOR_ANOTHER_AUDIENCE = auto()
    GOOD = auto()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with some token, or none."""

    name: str
    token: Token
    text: str = ""
    """Of the token."""
    roles: frozenset[str] = frozenset()
    client: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.token is Token.NONE else (("authorization", f"Bearer {self.text}"),)


NOBODY = Caller("no token", Token.NONE)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the services."""

    name: str
    channels: Mapping[str, grpc.aio.Channel]
    """By service."""
    checked_by_envoy: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one call."""

    way: Way
    rpc: Rpc
    caller: Caller
    got: Refused

    @property
    def wanted(self) -> Refused:
        """What the rule of the rpc makes of the caller."""
        return _by_envoy(self.rpc, self.caller) if self.way.checked_by_envoy else _by_the_service(self.rpc, self.caller)

    def __str__(self) -> str:
        called = f"{self.way.name:16} {self.rpc.path.removeprefix('/shop.'):56} {self.caller.name:28}"
        return f"{called} {_said(self.got)} instead of {_said(self.wanted)}"


def _by_envoy(rpc: Rpc, caller: Caller) -> Refused:
    if rpc.clients:
        return UNROUTED
    match caller.token:
        case Token.NONE:
            return ADMITTED if rpc.public else NO_TOKEN
        case Token.BAD:
            return NO_TOKEN
        case Token.FOR_ANOTHER_AUDIENCE:
            return DENIED
        case Token.GOOD:
            return ADMITTED if rpc.public or rpc.roles & caller.roles else DENIED


def _by_the_service(rpc: Rpc, caller: Caller) -> Refused:
    match caller.token:
        case Token.NONE:
            return ADMITTED if rpc.public else TOKEN_INVALID
        case Token.BAD | Token.FOR_ANOTHER_AUDIENCE:
            return TOKEN_INVALID
        case Token.GOOD if rpc.public or rpc.roles & caller.roles or caller.client in rpc.clients:
            return ADMITTED
        case Token.GOOD:
            missing = {"roles": rpc.roles, "clients": rpc.clients}
            facts = {who: ",".join(sorted(names)) for who, names in missing.items() if names}
            return replace(DENIED, reason="ROLE_MISSING", facts=facts)


async def answers(ways: Sequence[Way], rpcs: Sequence[Rpc], callers: Sequence[Caller]) -> list[Answer]:
    """Everybody calls everything, on every way."""
    few = asyncio.Semaphore(AT_ONCE)

    async def ask(way: Way, rpc: Rpc, caller: Caller) -> Answer:
        async def answered() -> Refused:
            got = await outcome(rpc.call(way.channels[rpc.service], NO_MESSAGE, caller.metadata, DEADLINE_S))
            # On a busy machine Envoy gives up a try that takes long, and counts the many that follow.
            assert got.code not in SAYS_NOTHING
            # Whose a token is, is told as well, for some: tests/component/chassis/test_tokens.py.
            return replace(got, facts={}) if got.reason == TOKEN_INVALID.reason else got

        async with few:
            return Answer(way, rpc, caller, await eventually(answered, f"{rpc.path} answers"))

    return await asyncio.gather(*(ask(*cell) for cell in product(ways, rpcs, callers)))


def deviations(answers: Iterable[Answer]) -> list[Answer]:
    """Each call that ended otherwise than the rule of its rpc says."""
    return [answer for answer in answers if answer.got != answer.wanted]


def _said(answer: Refused) -> str:
    facts = f" {answer.facts}" if answer.facts else ""
    return f"{answer.code.name}/{answer.reason or '-'}{facts}"
