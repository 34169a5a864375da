"""What nobody shall read later is in no log, span, metric or event, but for the fields that docs/traces.md names."""

import json
import re
import secrets
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import events_pb2, order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.bus.looking import Looking
from services.order.contract import EVENT_TYPES
from tests.support.pages import spans_of
from tests.support.refused import outcome
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import eventually

JWT = re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}")
ANN = "ann@example.com"
EVENTS = {type: getattr(events_pb2, type.rpartition(".")[2]) for type in EVENT_TYPES}


class Marks:
    """A word for each secret that occurs nowhere else."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {"the e-mail address of the token": ANN}

    def __call__(self, what: str) -> str:
        return self.words.setdefault(what, f"m{secrets.token_hex(8)}")

    def in_(self, text: bytes) -> set[str]:
        """Which secrets are there, whoever may have escaped them; and tokens, whosever."""
        found = {what for what, word in self.words.items() if word.lower().encode() in text.lower()}
        return found | ({"a token"} if JWT.search(text) else set())


async def kept(shop: Shop) -> AsyncIterator[tuple[str, bytes]]:
    """All that is there to be read later: name of the place, and what stands there."""
    for file in sorted([*(shop.state / "logs").iterdir(), *files(shop.state / "telemetry")]):
        yield str(file.relative_to(shop.state)), file.read_bytes()
    async with httpx.AsyncClient(base_url=shop.pages, trust_env=False, timeout=60) as pages:
        yield "metrics", (await pages.get("/metrics")).raise_for_status().content
    async with Looking(f"nats://127.0.0.1:{shop.ports['nats']}") as looking:
        async for some in looking.stored("ORDERS", 1, headers_only=False):
            for message in some:
                yield "headers of an event", json.dumps(dict(message.headers)).encode()
                event = EVENTS[message.subject].FromString(message.data)
                event.ClearField("recipient")  # documented
                for line in event.order.lines:
                    line.ClearField("display_name")  # documented
                yield "event", json_format.MessageToJson(event).encode()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def found(shop: Shop, marks: Marks) -> dict[str, set[str]]:
    """Secrets, by the place where they were found."""
    hits: dict[str, set[str]] = {}
    async for place, text in kept(shop):
        if there := marks.in_(text):
            hits[place] = hits.get(place, set()) | there
    return hits


async def test_nothing_secret_is_kept(
    shop: Shop, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    marks = Marks()
    for user in ("ann", "carol"):
        marks.words[f"the token of {user}"] = bearer(user)[0][1].rpartition(".")[2]
    for service in ("order", "notification"):
        marks.words[f"the secret of {service}"] = (shop.state / "secrets" / service).read_text()
        marks.words[f"the token of {service}"] = shop.service_token(service).rpartition(".")[2]

    order = await an_order_whose_mail_is_marked(edge, bearer, await stocked(5), marks)
    await calls_with_secrets_where_they_do_not_belong(shop, edge, http, bearer, marks)
    await people_who_cannot_log_in(shop, marks)
    await statements_that_fail(shop, marks)
    planted = await a_call_that_says_it_itself(shop, edge, marks)

    async def mailed() -> bool:
        answer = await notification_pb2_grpc.NotificationServiceStub(edge).ListNotifications(
            notification_pb2.ListNotificationsRequest(page_size=100), metadata=bearer("ann")
        )
        return [each.state for each in answer.notifications if each.order == order.name] == [
            notification_pb2.Notification.STATE_SENT
        ]

    async def told() -> bool:
        return bool(await spans_of(shop.pages, planted))

    async def read() -> dict[str, set[str]]:
        hits = await found(shop, marks)
        # A word that goes over the end of one of SQLite's pages is not found; the line with it comes after the span.
        assert "logs/envoy.jsonl" in hits
        assert any("telemetry" in place for place in hits)
        return hits

    await eventually(mailed, "the mail is sent")
    await eventually(told, "the last span has arrived")
    hits = await eventually(read, "Envoy has written what it was told, and the store has it")
    assert {place: what for place, what in hits.items() if "telemetry" not in place} == {
        "logs/envoy.jsonl": {"planted"}
    }, "the check sees what is there, and nothing else is"
    assert set[str]().union(*(what for place, what in hits.items() if "telemetry" in place)) == {"planted"}


async def an_order_whose_mail_is_marked(
    edge: grpc.aio.Channel, bearer: Bearer, product: str, marks: Marks
) -> order_pb2.Order:
    """The name of the product is in the text of the mail."""
    catalogue = product_pb2_grpc.ProductServiceStub(edge)
    named = (await catalogue.GetProduct(product_pb2.GetProductRequest(name=product))).product
    named.display_name = f"Mug {marks('words of the mail')}"
    named.description = marks("description")
    await catalogue.UpdateProduct(
        product_pb2.UpdateProductRequest(product=named, update_mask=FieldMask(paths=["display_name", "description"])),
        metadata=bearer("carol"),
    )
    hostile = [
        ("x-secret", marks("some header")),
        ("cookie", f"session={marks('cookie')}"),
        ("baggage", f"userid={marks('baggage')}"),
        ("x-jwt-payload", marks("payload of a token")),
        ("x-request-id", marks("id of a request")),
        ("traceparent", f"00-{marks('no trace')}"),
    ]
    orders = order_pb2_grpc.OrderServiceStub(edge)
    return (await orders.PlaceOrder(order_of(product), metadata=(*bearer("ann"), *hostile))).order


async def calls_with_secrets_where_they_do_not_belong(
    shop: Shop, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, marks: Marks
) -> None:
    """Over each door, and past all of them: wrong tokens, bodies that are none, tokens in queries."""
    wrong = (("authorization", f"Bearer {marks('a wrong token')}"),)
    request = order_of(f"products/no-{uuid.uuid4()}", request_id=marks("id of a purchase"))
    orders = order_pb2_grpc.OrderServiceStub(edge)
    assert (await outcome(orders.PlaceOrder(request, metadata=wrong))).code is grpc.StatusCode.UNAUTHENTICATED
    assert (await outcome(orders.PlaceOrder(request, metadata=bearer("ann")))).reason == "PRODUCT_NOT_FOUND"
    async with grpc.aio.insecure_channel(shop.address("order")) as past:
        behind = order_pb2_grpc.OrderServiceStub(past)
        assert (await outcome(behind.PlaceOrder(request, metadata=wrong))).reason == "TOKEN_INVALID"
    web = {"content-type": "application/grpc-web+proto"}
    for headers, path, body in [
        ({}, f"/v1/orders?access_token={marks('a token in a query')}", b""),
        ({"authorization": f"Basic {marks('a password')}"}, "/v1/orders", b""),
        ({"authorization": f"Basic {b64encode(marks('another password').encode()).decode()}"}, "/v1/orders", b"{}"),
        (dict(bearer("ann")), "/v1/orders", f'{{"password": "{marks("password in a body")}"}}'.encode()),
        (dict(bearer("ann")), "/v1/orders", f"no JSON {marks('a body that is none')}".encode()),
        (web | dict(wrong), "/shop.order.v1.OrderService/PlaceOrder", b"\0\0\0\0\0"),
        (web | dict(bearer("ann")), "/shop.order.v1.OrderService/PlaceOrder", marks("no message").encode()),
    ]:
        answer = await (http.post(path, headers=headers, content=body) if body else http.get(path, headers=headers))
        assert answer.status_code >= 400 or answer.headers.get("grpc-status") != "0", path


async def people_who_cannot_log_in(shop: Shop, marks: Marks) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as keycloak:
        for form in (
            {"grant_type": "password", "client_id": "shopmesh-cli", "username": "ann", "password": marks("typo")},
            {
                "grant_type": "client_credentials",
                "client_id": "order",
                "client_secret": marks("a secret that is out of date"),
            },
        ):
            answer = await keycloak.post(f"{shop.issuer}/protocol/openid-connect/token", data=form)
            assert 400 <= answer.status_code < 500, answer.text


async def statements_that_fail(shop: Shop, marks: Marks) -> None:
    """With a row that breaks a constraint, in PostgreSQL's log."""
    connection = await asyncpg.connect(f"postgresql://notification@127.0.0.1:{shop.ports['postgres']}/notification")
    try:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(
                "insert into notifications (id, order_id, kind, version, customer, recipient, subject, body)"
                " values ($1, $1, 'NO_KIND', 1, 'customer', $2, 'subject', $3)",
                uuid.uuid4(), f"{marks('a recipient')}@example.com", marks("a body of a mail"),
            )  # fmt: skip
    finally:
        await connection.close()


async def a_call_that_says_it_itself(shop: Shop, edge: grpc.aio.Channel, marks: Marks) -> str:
    """What its caller is called is kept: the check would see a secret. Returns its trace."""
    trace_id = uuid.uuid4().hex
    traced = f"00-{trace_id}-b7ad6b7169203331-01"
    async with httpx.AsyncClient(base_url=f"http://{shop.edge}", trust_env=False) as web:
        await web.get("/v1/products", headers={"user-agent": marks("planted"), "traceparent": traced})
    return trace_id


@pytest.mark.parametrize(
    ("words", "text", "hits"),
    [
        ({}, b"nothing", set()),
        ({}, b"authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln", {"a token"}),
        ({"password": "pa55"}, b'{"said": "PA55"}', {"password"}),
        ({}, b"to ann@example.com", {"the e-mail address of the token"}),
    ],
)
def test_the_check_finds_what_is_planted(words: Mapping[str, str], text: bytes, hits: set[str]) -> None:
    marks = Marks()
    marks.words.update(words)

    assert marks.in_(text) == hits
