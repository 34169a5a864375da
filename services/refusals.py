"""The ways in which the shop says no. Transport comes later: chassis/errors maps kinds to status codes."""

from datetime import timedelta
from typing import ClassVar


class Refusal(Exception):
    """The caller asked for something the shop will not do.

    Subclass one of the kinds below. `reason` is what programs match on and never changes;
    keyword arguments are the facts a program may need and become ErrorInfo.metadata.
    """

    reason: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, **facts: str) -> None:
        super().__init__(self.message)
        self.facts = facts


class Invalid(Refusal):
    """The request can never succeed as written."""

    violations: tuple[tuple[str, str], ...] = ()
    """Path of a field as protovalidate writes it, and what is wrong with it."""


class NotFound(Refusal):
    """The named thing does not exist, or is not the caller's."""


class AlreadyExists(Refusal):
    """The name is taken."""


class Rejected(Refusal):
    """The shop is not in a state that allows this."""


class Conflict(Refusal):
    """Somebody else changed it first; read again and retry."""


class Unauthenticated(Refusal):
    """Nobody knows who is asking."""


class Forbidden(Refusal):
    """The caller may not do this."""


class Unavailable(Refusal):
    """A part that is needed is away; the same request may succeed later."""

    retry_after: ClassVar[timedelta] = timedelta(seconds=1)


class InvalidRequest(Invalid):
    """Fields of the request are out of range or shape."""

    reason = "INVALID_REQUEST"
    message = "The request is not valid."

    def __init__(self, *violations: tuple[str, str]) -> None:
        super().__init__()
        self.violations = violations


class PageTokenInvalid(Invalid):
    reason = "PAGE_TOKEN_INVALID"
    message = "The page_token is not one that this list gave out; begin with the first page."


class EtagMismatch(Conflict):
    """Facts: the name of what was to be changed, under the word for its kind."""

    reason = "ETAG_MISMATCH"
    message = "It has changed since you read it; read it again."


class RequestIdReused(Rejected):
    reason = "REQUEST_ID_REUSED"
    message = "This request_id was used before, for something else; take a new one."
