"""What a good Python team writes today: FastAPI, SQLAlchemy 2, pydantic, httpx, PyJWT.

`python fastapi_shop.py ROLE`: one uvicorn worker per service.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import httpx
import jwt
import nats
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from nats.js.api import ConsumerConfig, StreamConfig
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BATCH = 32
SUBJECT = "shop.order.placed"
ISSUER, AUDIENCE = os.environ["BENCH_ISSUER"], "shop-api"
KEYS = jwt.PyJWKSet.from_json(os.environ["BENCH_JWKS"])

# --- Tables ---


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), dict: JSONB, list: JSONB}


class Product(Base):
    __tablename__ = "products"
    id: Mapped[str] = mapped_column(primary_key=True)
    display_name: Mapped[str]
    currency: Mapped[str]
    price_units: Mapped[int]
    price_nanos: Mapped[int]
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int]


class Stock(Base):
    __tablename__ = "stock"
    product: Mapped[str] = mapped_column(primary_key=True)
    on_hand: Mapped[int]
    reserved: Mapped[int]


class Reservation(Base):
    __tablename__ = "reservations"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[str]
    lines: Mapped[dict]
    expire_time: Mapped[datetime]


class Ledger(Base):
    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    reservation: Mapped[UUID]
    kind: Mapped[str]
    product: Mapped[str]
    on_hand_delta: Mapped[int]
    reserved_delta: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str]
    request_id: Mapped[UUID]
    state: Mapped[str]
    lines: Mapped[list]
    currency: Mapped[str]
    total_units: Mapped[int]
    total_nanos: Mapped[int]
    create_time: Mapped[datetime]


class History(Base):
    __tablename__ = "order_history"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[UUID]
    state: Mapped[str]


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    subject: Mapped[str]
    payload: Mapped[bytes]
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_time: Mapped[datetime | None]


class Notification(Base):
    __tablename__ = "notifications"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID]
    customer: Mapped[str]
    body: Mapped[str]


# --- Messages ---


class ProductOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: str
    display_name: str
    currency: str
    price_units: int
    price_nanos: int
    create_time: datetime
    version: int


class LineIn(BaseModel):
    product: str
    quantity: int = Field(ge=1, le=999)


class LineOut(LineIn):
    unit_price: Decimal


class ReserveIn(BaseModel):
    reservation_id: UUID
    lines: list[LineIn] = Field(min_length=1)


class ReservationOut(BaseModel):
    id: UUID
    state: str


class PlaceOrderIn(BaseModel):
    request_id: UUID
    customer: str = Field(min_length=1, max_length=64)
    lines: list[LineIn] = Field(min_length=1, max_length=100)


class OrderOut(BaseModel):
    id: UUID
    customer: str
    lines: list[LineOut]
    currency: str
    total: Decimal
    state: str
    create_time: datetime


class OrderPlaced(BaseModel):
    event_id: UUID
    order: OrderOut


# --- What every service has ---

sessions: async_sessionmaker[AsyncSession]


def connect(database):
    global sessions
    dsn = os.environ["BENCH_POSTGRES"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(dsn + database, pool_size=8, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    return engine


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as s:
        yield s


Session = Annotated[AsyncSession, Depends(session)]
bearer = HTTPBearer()


async def claims(given: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> dict:
    try:
        key = KEYS[jwt.get_unverified_header(given.credentials)["kid"]]
        return jwt.decode(given.credentials, key, ["RS256"], audience=AUDIENCE, issuer=ISSUER)
    except (jwt.InvalidTokenError, KeyError) as error:
        raise HTTPException(401, str(error)) from error


def application(lifespan):
    return FastAPI(lifespan=lifespan, dependencies=[Depends(claims)])


async def jetstream():
    client = await nats.connect(os.environ["BENCH_NATS"])
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="ORDERS", subjects=["shop.order.>"]))
    return js


async def forever(wake, drain):
    while True:
        try:
            await asyncio.wait_for(wake.wait(), 1)
        except TimeoutError:
            pass
        wake.clear()
        await asyncio.sleep(0.02)
        while await drain():
            pass


def background(coroutine):
    """A task whose failure ends the process."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda t: t.cancelled() or os._exit(1))
    return task


# --- Product ---


def product_service():
    @asynccontextmanager
    async def lifespan(_app):
        engine = connect("product")
        yield
        await engine.dispose()

    app = application(lifespan)

    @app.get("/products/{id}")
    async def get_product(id: str, db: Session) -> ProductOut:
        product = await db.get(Product, id)
        if product is None:
            raise HTTPException(404, "product not found")
        return ProductOut.model_validate(product)

    @app.post("/products:batchGet")
    async def batch_get_products(ids: list[str], db: Session) -> list[ProductOut]:
        found = (await db.scalars(select(Product).where(Product.id.in_(ids)))).all()
        if len(found) != len(set(ids)):
            raise HTTPException(404, "product not found")
        return [ProductOut.model_validate(p) for p in found]

    return app


# --- Inventory ---


def inventory_service():
    @asynccontextmanager
    async def lifespan(_app):
        engine = connect("inventory")
        yield
        await engine.dispose()

    app = application(lifespan)

    async def lock(db, lines):
        wanted = select(Stock).where(Stock.product.in_(lines)).order_by(Stock.product)
        return await db.scalars(wanted.with_for_update())

    @app.post("/reservations")
    async def reserve(body: ReserveIn, db: Session) -> ReservationOut:
        lines = {line.product: line.quantity for line in body.lines}
        try:
            async with db.begin():
                expire = datetime.now(UTC) + timedelta(minutes=15)
                db.add(Reservation(id=body.reservation_id, state="held", lines=lines, expire_time=expire))
                await db.flush()
                for stock in await lock(db, lines):
                    quantity = lines[stock.product]
                    if stock.on_hand - stock.reserved < quantity:
                        raise HTTPException(409, f"{stock.product} is out of stock")
                    stock.reserved += quantity
                    db.add(
                        Ledger(
                            reservation=body.reservation_id, kind="reserve",
                            product=stock.product, on_hand_delta=0, reserved_delta=quantity,
                        )
                    )  # fmt: skip
        except IntegrityError:
            pass  # the same request again
        return ReservationOut(id=body.reservation_id, state="held")

    @app.post("/reservations/{id}:confirm")
    async def confirm(id: UUID, db: Session) -> ReservationOut:
        async with db.begin():
            reservation = await db.get(Reservation, id, with_for_update=True)
            if reservation is None:
                raise HTTPException(404, "reservation not found")
            if reservation.state == "held":
                reservation.state = "confirmed"
                for stock in await lock(db, reservation.lines):
                    quantity = reservation.lines[stock.product]
                    stock.on_hand -= quantity
                    stock.reserved -= quantity
                    db.add(
                        Ledger(
                            reservation=id, kind="confirm", product=stock.product,
                            on_hand_delta=-quantity, reserved_delta=-quantity,
                        )
                    )  # fmt: skip
        return ReservationOut(id=id, state=reservation.state)

    return app


# --- Order ---


class Orders:
    """The order desk and its two background jobs."""

    def __init__(self, js, http):
        self.js, self.http = js, http
        self.wake = asyncio.Event(), asyncio.Event()
        self.token = ""  # what the settler calls with: the last caller's

    async def call(self, url, body=None):
        answer = await self.http.post(url, json=body, headers={"Authorization": f"Bearer {self.token}"})
        answer.raise_for_status()
        return answer.json()

    async def place(self, body: PlaceOrderIn, db: AsyncSession) -> OrderOut:
        product, inventory = os.environ["BENCH_PRODUCT"], os.environ["BENCH_INVENTORY"]
        found = await self.call(f"http://{product}/products:batchGet", [line.product for line in body.lines])
        products = {p["id"]: ProductOut.model_validate(p) for p in found}
        lines = [
            LineOut(
                **line.model_dump(),
                unit_price=products[line.product].price_units + Decimal(products[line.product].price_nanos) / 10**9,
            )
            for line in body.lines
        ]
        id = uuid5(NAMESPACE_URL, f"{body.customer}/{body.request_id}")
        wanted = ReserveIn(reservation_id=id, lines=body.lines)
        await self.call(f"http://{inventory}/reservations", wanted.model_dump(mode="json"))
        total = sum(line.unit_price * line.quantity for line in lines)
        out = OrderOut(
            id=id, customer=body.customer, lines=lines, total=total, state="placed",
            currency=products[body.lines[0].product].currency, create_time=datetime.now(UTC),
        )  # fmt: skip
        event = OrderPlaced(event_id=uuid4(), order=out)
        try:
            async with db.begin():
                db.add(
                    Order(
                        id=id, customer=body.customer, request_id=body.request_id,
                        state="placed", lines=[line.model_dump() for line in body.lines],
                        currency=out.currency, total_units=int(total),
                        total_nanos=int(total % 1 * 10**9), create_time=out.create_time,
                    )
                )  # fmt: skip
                await db.flush()
                db.add(History(order_id=id, state="placed"))
                payload = event.model_dump_json().encode()
                db.add(Outbox(id=event.event_id, subject=SUBJECT, payload=payload))
        except IntegrityError:
            pass  # the same request again
        for wake in self.wake:
            wake.set()
        return out

    async def relay(self):
        async with sessions.begin() as db:
            rows = (
                await db.scalars(
                    select(Outbox).where(Outbox.sent_time.is_(None))
                    .order_by(Outbox.create_time).limit(BATCH)
                    .with_for_update(skip_locked=True)
                )
            ).all()  # fmt: skip
            await asyncio.gather(
                *(self.js.publish(r.subject, r.payload, headers={"Nats-Msg-Id": str(r.id)}) for r in rows)
            )
            for row in rows:
                row.sent_time = datetime.now(UTC)
        return rows

    async def settle(self):
        inventory = os.environ["BENCH_INVENTORY"]
        async with sessions.begin() as db:
            found = await db.scalars(
                select(Order.id).where(Order.state == "placed").order_by(Order.create_time)
                .limit(BATCH).with_for_update(skip_locked=True)
            )  # fmt: skip
            ids = found.all()
            await asyncio.gather(*(self.call(f"http://{inventory}/reservations/{id}:confirm") for id in ids))
            if ids:
                await db.execute(update(Order).where(Order.id.in_(ids)).values(state="confirmed"))
                db.add_all(History(order_id=id, state="confirmed") for id in ids)
        return ids


def order_service():
    @asynccontextmanager
    async def lifespan(app):
        engine = connect("orders")
        async with httpx.AsyncClient(timeout=30) as http:
            app.state.orders = orders = Orders(await jetstream(), http)
            jobs = orders.relay, orders.settle
            tasks = [background(forever(w, job)) for w, job in zip(orders.wake, jobs, strict=True)]
            yield
            for task in tasks:
                task.cancel()
        await engine.dispose()

    app = application(lifespan)

    @app.post("/orders", status_code=201)
    async def place_order(
        body: PlaceOrderIn,
        db: Session,
        request: Request,
        given: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
    ) -> OrderOut:
        orders = request.app.state.orders
        orders.token = given.credentials
        return await orders.place(body, db)

    return app


# --- Notification ---


async def notify():
    js = await jetstream()
    config = ConsumerConfig(durable_name="notification", max_ack_pending=1000)
    messages = await js.pull_subscribe(SUBJECT, "notification", config=config)

    async def handle(message):
        event = OrderPlaced.model_validate_json(message.data)
        row = insert(Notification).values(
            id=event.event_id, order_id=event.order.id, customer=event.order.customer,
            body=f"Thank you for your order {event.order.id}.",
        )  # fmt: skip
        async with sessions.begin() as db:
            await db.execute(row.on_conflict_do_nothing())
        await message.ack()

    while True:
        try:
            batch = await messages.fetch(BATCH, timeout=5)
        except TimeoutError:
            continue
        await asyncio.gather(*map(handle, batch))


def notification_service():
    @asynccontextmanager
    async def lifespan(_app):
        engine = connect("notification")
        task = background(notify())
        yield
        task.cancel()
        await engine.dispose()

    return application(lifespan)


if __name__ == "__main__":
    host, port = os.environ["BENCH_LISTEN"].split(":")
    uvicorn.run(
        globals()[f"{sys.argv[1]}_service"](),
        host=host, port=int(port), loop="uvloop", http="httptools",
        access_log=False, log_level="warning",
    )  # fmt: skip
