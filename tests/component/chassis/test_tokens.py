"""Who is let in: tokens of a real issuer, checked by a real server, under rules of each kind."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
from jose import jwt

from services.chassis import auth
from services.chassis.auth import Caller, IdentityUnavailable, Keys, Tokens, caller
from services.chassis.token_refusals import TokenInvalid, told_by
from tests.support.issuer import AUDIENCE, Issuer, Key, running_issuer
from tests.support.refused import Refused, outcome
from tests.support.ruled_echo import Echo, EchoStub, Text, add_unruled
from tests.support.serving import bearing
from tests.support.waiting import eventually

OK = Refused(grpc.StatusCode.OK)
INVALID = Refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
ANN = ("ann", ["customer"])


def tokens_of(issuer: Issuer, http: httpx.AsyncClient) -> Tokens:
    return Tokens(Keys(issuer.jwks_url, http), issuer.url, AUDIENCE)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


async def test_the_rule_of_an_rpc_decides_who_is_let_in(stub: EchoStub, issuer: Issuer) -> None:
    people = {
        "nobody": (),
        "customer": bearing(issuer.token(*ANN)),
        "operator": bearing(issuer.token("oscar", ["operator"])),
        "order": bearing(issuer.token("service-account-order", client="order")),
        "product": bearing(issuer.token("service-account-product", client="product")),
    }
    rpcs = {"public": stub.Say, "customers": stub.SayToCustomer, "order only": stub.SayToOrder}

    admitted = {
        (rpc, who): (await outcome(call(Text(text="hi"), metadata=metadata))).reason or "OK"
        for rpc, call in rpcs.items()
        for who, metadata in people.items()
    }

    assert admitted == {
        ("public", "nobody"): "OK",
        ("public", "customer"): "OK",
        ("public", "operator"): "OK",
        ("public", "order"): "OK",
        ("public", "product"): "OK",
        ("customers", "nobody"): "TOKEN_INVALID",
        ("customers", "customer"): "OK",
        ("customers", "operator"): "ROLE_MISSING",
        ("customers", "order"): "ROLE_MISSING",
        ("customers", "product"): "ROLE_MISSING",
        ("order only", "nobody"): "TOKEN_INVALID",
        ("order only", "customer"): "ROLE_MISSING",
        ("order only", "operator"): "ROLE_MISSING",
        ("order only", "order"): "OK",
        ("order only", "product"): "ROLE_MISSING",
    }


def claims(issuer: Issuer, **overrides: object) -> dict[str, object]:
    return jwt.get_unverified_claims(issuer.token(*ANN, **overrides))  # type: ignore[arg-type]


def signed(issuer: Issuer, secret: str, algorithm: str, **headers: object) -> str:
    return jwt.encode(claims(issuer), secret, algorithm, headers={"kid": issuer.key.kid, **headers})


def unsigned(issuer: Issuer) -> str:
    payload = issuer.token(*ANN).split(".")[1]
    return f"eyJhbGciOiJub25lIiwia2lkIjoidGVzdC0xIn0.{payload}."


def without_subject(issuer: Issuer) -> str:
    nobody = {name: value for name, value in claims(issuer).items() if name != "sub"}
    return jwt.encode(nobody, issuer.key.pem, "RS256", headers={"kid": issuer.key.kid})


BAD_TOKENS: dict[str, Callable[[Issuer], str]] = {
    "without an audience": lambda issuer: issuer.token(*ANN, aud=None),
    "without an issuer": lambda issuer: issuer.token(*ANN, iss=None),
    "without a subject": without_subject,
    "expired": lambda issuer: issuer.token(*ANN, exp=int(time.time()) - 1),
    "that expires this second": lambda issuer: issuer.token(*ANN, exp=int(time.time())),
    "that never expires": lambda issuer: issuer.token(*ANN, exp=None),
    "not valid yet": lambda issuer: issuer.token(*ANN, nbf=int(time.time()) + 60),
    "forged with another key of the same name": lambda issuer: issuer.token(*ANN, key=Key(issuer.key.kid)),
    "signed with an unknown key": lambda issuer: issuer.token(*ANN, key=Key("unknown")),
    "signed with a secret": lambda issuer: signed(issuer, "secret", "HS256"),
    "signed by another algorithm": lambda issuer: signed(issuer, issuer.key.pem, "RS512"),
    "with a critical extension": lambda issuer: signed(issuer, issuer.key.pem, "RS256", crit=["exp"]),
    "whose kid is no text": lambda issuer: signed(issuer, issuer.key.pem, "RS256", kid=["test-1"]),
    "not signed at all": unsigned,
    "cut off": lambda issuer: issuer.token(*ANN)[:-10],
    "empty": lambda _: "",
    "no token": lambda _: "hello",
}


def of_another(issuer: Issuer, iss: object) -> dict[str, str]:
    return {"issuer": str(iss), "trusted": issuer.url, "setting": "SHOPMESH_ISSUER"}


@pytest.mark.parametrize("key", [None, Key("unknown")], ids=["its other name", "another Keycloak"])
async def test_a_token_of_another_issuer_is_refused_with_both_named(
    key: Key | None, stub: EchoStub, issuer: Issuer
) -> None:
    other = "http://keycloak:8080/realms/shop"
    token = issuer.token(*ANN, iss=other, key=key)

    assert await outcome(stub.Say(Text(), metadata=bearing(token))) == Refused(
        grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", of_another(issuer, other)
    )
    with pytest.raises(grpc.aio.AioRpcError, match="of another issuer than the one that is trusted here"):
        await stub.Say(Text(), metadata=bearing(token))


@pytest.mark.parametrize(("audiences", "shown"), [("account", "account"), (["account", "other"], "account, other")])
async def test_a_token_for_another_audience_is_refused_with_both_named(
    audiences: object, shown: str, stub: EchoStub, issuer: Issuer
) -> None:
    token = issuer.token(*ANN, aud=audiences)

    assert await outcome(stub.Say(Text(), metadata=bearing(token))) == Refused(
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_INVALID",
        {"audience": shown, "wanted": AUDIENCE, "setting": "SHOPMESH_AUDIENCE"},
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://a/\r\n\x1b[31mforged line\u2028", "http://a/???[31mforged line?"),
        ("x" * 100_000, "x" * 197 + "..."),
        ("x" * 200, "x" * 200),
    ],
    ids=["unprintable", "long", "not too long"],
)
async def test_what_a_token_says_of_itself_is_cut_and_printable(said: str, shown: str, issuer: Issuer) -> None:
    assert told_by({"iss": said}, issuer.url, AUDIENCE).facts == of_another(issuer, shown)


@pytest.mark.parametrize("claims", [{}, {"iss": 1}, {"iss": None, "aud": [None, 1]}, {"aud": {}}, {"aud": AUDIENCE}])
def test_a_token_that_says_nothing_of_itself_is_told_nothing(claims: dict[str, object], issuer: Issuer) -> None:
    assert type(told_by(claims, issuer.url, AUDIENCE)) is TokenInvalid


@pytest.mark.parametrize("which", BAD_TOKENS)
async def test_a_bad_token_is_refused_also_by_a_public_rpc(which: str, stub: EchoStub, issuer: Issuer) -> None:
    metadata = bearing(BAD_TOKENS[which](issuer))

    assert await outcome(stub.SayToCustomer(Text(), metadata=metadata)) == INVALID
    assert await outcome(stub.Say(Text(), metadata=metadata)) == INVALID


async def test_only_bearer_tokens_count(stub: EchoStub, issuer: Issuer) -> None:
    token = issuer.token(*ANN)

    assert await outcome(stub.SayToCustomer(Text(), metadata=[("authorization", f"Basic {token}")])) == INVALID
    assert await outcome(stub.SayToCustomer(Text(), metadata=[("authorization", f"bearer {token}")])) == OK


async def test_a_second_authorization_header_changes_nothing(stub: EchoStub, issuer: Issuer) -> None:
    bob, ann = bearing("forged"), bearing(issuer.token(*ANN))

    assert await outcome(stub.SayToCustomer(Text(), metadata=[*ann, *bob])) == OK
    assert await outcome(stub.SayToCustomer(Text(), metadata=[*bob, *ann])) == INVALID


async def test_the_handler_knows_who_calls(echo: Echo, stub: EchoStub, issuer: Issuer) -> None:
    seen: list[Caller] = []

    async def say(request: Any, context: Any) -> Any:
        seen.append(caller())
        return request

    echo.say = say
    expires = int(time.time()) + 100
    await stub.Say(Text(), metadata=bearing(issuer.token(*ANN, client="storefront", exp=expires)))
    await stub.Say(Text(), metadata=bearing(issuer.token("bob", email=None)))

    ann, bob = seen
    assert (ann.subject, ann.email, ann.roles, ann.client) == (
        "ann",
        "ann@example.com",
        frozenset({"customer"}),
        "storefront",
    )
    assert ann.expires.timestamp() == expires
    assert (bob.subject, bob.roles) == ("bob", frozenset())


async def test_without_a_token_nobody_is_known(echo: Echo, stub: EchoStub) -> None:
    async def say(request: Any, context: Any) -> Any:
        with pytest.raises(LookupError):
            caller()
        return request

    echo.say = say
    assert await outcome(stub.Say(Text())) == OK


async def test_a_token_without_an_address_has_none(issuer: Issuer, http: httpx.AsyncClient) -> None:
    tokens = tokens_of(issuer, http)

    assert (await tokens.verify(f"Bearer {issuer.token(*ANN, email='')}")).email is None


async def test_a_verified_token_is_believed_only_until_it_expires(
    issuer: Issuer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(issuer, http)
    header = f"Bearer {issuer.token(*ANN)}"
    assert await tokens.verify(header) is await tokens.verify(header)

    later = time.time() + 301
    monkeypatch.setattr(time, "time", lambda: later)

    with pytest.raises(TokenInvalid):
        await tokens.verify(header)


async def test_remembered_tokens_are_bounded(
    issuer: Issuer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_BELIEVED", 2)
    tokens = tokens_of(issuer, http)
    headers = [f"Bearer {issuer.token(who)}" for who in ("ann", "bob", "carol")]

    first = [await tokens.verify(header) for header in headers]

    assert await tokens.verify(headers[2]) is first[2]
    assert await tokens.verify(headers[0]) is not first[0]


async def test_keys_are_fetched_once_and_kept_while_the_issuer_is_away(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_issuer() as issuer:
        tokens = tokens_of(issuer, http)
        await asyncio.gather(*(tokens.verify(f"Bearer {issuer.token(f'ann-{n}')}") for n in range(5)))
        assert issuer.key_requests == 1

        issuer.away = True
        monkeypatch.setattr(auth, "_STALE_S", 0)
        monkeypatch.setattr(auth, "_REFETCH_S", 0)
        monkeypatch.setattr(auth, "_RETRY_S", 0)

        async def asked_in_vain() -> bool:
            await tokens.verify(f"Bearer {issuer.token('bob')}")
            return issuer.key_requests > 3

        await eventually(asked_in_vain, "keys that grow old are asked for again, beside the calls")


async def test_a_caller_who_gives_up_does_not_stop_the_fetch_for_others(http: httpx.AsyncClient) -> None:
    with running_issuer() as issuer:
        tokens = tokens_of(issuer, http)
        impatient = asyncio.ensure_future(tokens.verify(f"Bearer {issuer.token(*ANN)}"))
        await asyncio.sleep(0)
        impatient.cancel()

        assert (await tokens.verify(f"Bearer {issuer.token('bob')}")).subject == "bob"


async def test_a_token_of_nothing_but_brackets_is_just_invalid(issuer: Issuer, http: httpx.AsyncClient) -> None:
    header = urlsafe_b64encode(b"[" * 200_000).decode()

    with pytest.raises(TokenInvalid):
        await tokens_of(issuer, http).verify(f"Bearer {header}.e30.e30")


async def test_a_new_key_is_fetched_when_a_token_names_it_and_invented_ones_cost_little(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_issuer() as issuer:
        tokens = tokens_of(issuer, http)
        await tokens.verify(f"Bearer {issuer.token(*ANN)}")
        invented = Key("invented")
        for n in range(5):
            with pytest.raises(TokenInvalid):
                await tokens.verify(f"Bearer {issuer.token(f'mallory-{n}', key=invented)}")
        assert issuer.key_requests == 1

        monkeypatch.setattr(auth, "_REFETCH_S", 0)
        old, issuer.key = issuer.key, Key("test-2")

        assert (await tokens.verify(f"Bearer {issuer.token('bob')}")).subject == "bob"
        with pytest.raises(TokenInvalid):
            await tokens.verify(f"Bearer {issuer.token('carol', key=old)}")


async def test_without_any_keys_it_is_an_outage_and_ends_with_it(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_RETRY_S", 0)
    with running_issuer() as issuer:
        issuer.away = True
        tokens = tokens_of(issuer, http)
        with pytest.raises(IdentityUnavailable):
            await tokens.verify(f"Bearer {issuer.token(*ANN)}")

        issuer.away = False

        assert (await tokens.verify(f"Bearer {issuer.token(*ANN)}")).subject == "ann"


def test_an_rpc_without_a_rule_is_found_at_start() -> None:
    from services.chassis.server import add_guarded

    with pytest.raises(ValueError, match=r"ruled\.v1\.UnruledService\.Say needs the option mesh\.v1\.rule"):
        add_guarded(object(), object(), add_unruled, object())  # type: ignore[arg-type]
