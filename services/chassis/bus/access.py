"""How NATS is reached, and what is said when it is not."""

from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors

from services.chassis.settings import PasswordFile, PasswordUnreadable
from services.refusals import Unavailable

RECONNECT_S = 0.25


class BusUnavailable(Unavailable):
    """NATS is away, or did not confirm. What was published may be in the stream all the same."""

    reason = "BUS_UNAVAILABLE"
    message = "NATS is not reachable; try again."


def credentials(url: str, password: PasswordFile | None) -> dict[str, Any]:
    """What nats-py is to send with each connection; without a file, what the URL says."""
    if password is None:
        return {}

    def read() -> str:
        try:
            return password.read()
        except PasswordUnreadable as error:  # of nats-py's own kinds: else it would never connect again
            raise nats.errors.Error(str(error)) from error

    return {"user": unquote(urlsplit(url).username or ""), "password": read}


def is_about_who_we_are(error: Exception) -> bool:
    """Whether it is a refusal that waiting does not mend."""
    return isinstance(error.__cause__, PasswordUnreadable) or "authorization violation" in str(error).lower()
