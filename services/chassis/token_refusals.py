"""Why a token is not taken here, in words that lead to the mend.

Most tokens that are refused are good ones of somewhere else: of the issuer under another of its names, or for another
audience. What such a token says of itself is told to whoever sent it, also where its signature is not known: he has it
already. It is cut, and only printable, for it goes into a log as well.
"""

from collections.abc import Mapping
from typing import Any

from services.refusals import Unauthenticated

_LONGEST = 200


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"
    message = "There is no bearer token, or not one that is valid here."


class OtherIssuer(TokenInvalid):
    """Facts: `issuer` of the token, `trusted` here, and the `setting` that says so."""

    message = (
        "The token is of another issuer than the one that is trusted here (SHOPMESH_ISSUER), letter by letter; the "
        "metadata names both."
    )


class OtherAudience(TokenInvalid):
    """Facts: `audience` of the token, the one that is `wanted` here, and the `setting` that says so."""

    message = "The token is for another audience than this one (SHOPMESH_AUDIENCE); the metadata names both."


def told_by(claims: Mapping[str, Any], issuer: str, audience: str) -> TokenInvalid:
    """The refusal of a token that says this of itself, true or not."""
    of, wanted = claims.get("iss"), claims.get("aud")
    if isinstance(of, str) and of != issuer:
        return OtherIssuer(issuer=_shown(of), trusted=issuer, setting="SHOPMESH_ISSUER")
    audiences = wanted if isinstance(wanted, list) else [wanted]
    named = [each for each in audiences if isinstance(each, str)]
    if named and audience not in named:
        return OtherAudience(audience=_shown(", ".join(named)), wanted=audience, setting="SHOPMESH_AUDIENCE")
    return TokenInvalid()


def _shown(text: str) -> str:
    printable = "".join(each if " " <= each <= "~" else "?" for each in text[: _LONGEST + 1])
    return printable if len(printable) <= _LONGEST else f"{printable[: _LONGEST - 3]}..."
