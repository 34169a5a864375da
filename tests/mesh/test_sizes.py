"""What is too large is refused with the right code and a message, over every door; what is not always passes."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from shop.product.v1 import product_pb2

from tests.mesh.calls import call
from tests.mesh.test_who_gets_in import bearer, keys_are_known
from tests.support.mesh import Mesh

KIB, MIB = 1024, 1024 * 1024
# Not idempotent, so that no try is cut short: gRPC takes up to a second to refuse what is too large.
UPDATE = "/shop.product.v1.ProductService/UpdateProduct"
GET = "/shop.product.v1.ProductService/GetProduct"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def web(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False, timeout=60) as web:
        yield web


@pytest.fixture
async def manager(mesh: Mesh, edge: grpc.aio.Channel) -> dict[str, str]:
    await keys_are_known(mesh, edge)
    return dict(bearer(mesh.issuer.token("carol", ["catalog-manager", "customer"])))


def update(size: int) -> bytes:
    """A message of about so many bytes."""
    product = product_pb2.Product(description="a" * size)
    return product_pb2.UpdateProductRequest(product=product).SerializeToString()


async def over_grpc(edge: grpc.aio.Channel, path: str, message: bytes, headers: dict[str, str]) -> tuple[int, str]:
    try:
        await call(edge, path, message, metadata=[*headers.items()], timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().value[0], error.details() or ""
    return 0, ""


async def over_grpc_web(
    web: httpx.AsyncClient, path: str, message: bytes, headers: dict[str, str], *, text: bool
) -> tuple[int, str]:
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    answer = await web.post(
        path,
        content=base64.b64encode(framed) if text else framed,
        headers=headers | {"content-type": f"application/grpc-web{'-text' if text else ''}"},
    )
    return int(answer.headers.get("grpc-status", 0)), answer.headers.get("grpc-message", "")


@pytest.mark.parametrize(("mib", "code"), [(3.9, 0), (4.1, EXHAUSTED.value[0]), (5, EXHAUSTED.value[0])])
async def test_messages_of_4_mib_pass_over_grpc_and_grpc_web(
    edge: grpc.aio.Channel, web: httpx.AsyncClient, manager: dict[str, str], mib: float, code: int
) -> None:
    message = update(int(mib * MIB))

    ended = [
        await over_grpc(edge, UPDATE, message, manager),
        await over_grpc_web(web, UPDATE, message, manager, text=False),
        await over_grpc_web(web, UPDATE, message, manager, text=True),
    ]

    assert [at for at, _ in ended] == [code] * 3
    assert all("larger than max" in said for _, said in ended) == bool(code)


async def test_a_flood_of_large_messages_leaves_envoy_small(
    mesh: Mesh, edge: grpc.aio.Channel, manager: dict[str, str]
) -> None:
    assert mesh.envoy._process
    status = Path(f"/proc/{mesh.envoy._process.pid}/status")

    def most_kib() -> int:
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1])

    message, before = update(50 * MIB), most_kib()
    for _ in range(4):
        assert (await over_grpc(edge, UPDATE, message, manager))[0] == EXHAUSTED.value[0]

    grown = most_kib() - before
    assert grown < 40 * KIB, f"{grown} KiB"


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_rest_body_of_1_mib_passes(web: httpx.AsyncClient, manager: dict[str, str], in_pieces: bool) -> None:
    async def sent(size: int) -> httpx.Response:
        body = b'{"product": {"description": "%s"}}' % (b"a" * size)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 100 * KIB):
                yield body[at : at + 100 * KIB]

        headers = manager | {"content-type": "application/json"}
        return await web.patch("/v1/products/mug", content=pieces() if in_pieces else body, headers=headers)

    taken, refused = await sent(1000 * KIB), await sent(1100 * KIB)

    assert taken.status_code == 200
    assert refused.status_code == 413
    assert refused.json() == {"code": 8, "message": "The body is larger than 1 MiB.", "details": []}


async def test_an_answer_as_large_as_services_give_passes_over_rest(
    web: httpx.AsyncClient, manager: dict[str, str]
) -> None:
    # Each takes six bytes in JSON. The echo returns the order.
    order = {"order": {"stateReason": "<" * (1000 * KIB // 6)}}
    answer = await web.post("/v1/orders", json=order, headers=manager)

    assert answer.status_code == 200
    assert answer.json()["order"]["stateReason"] == order["order"]["stateReason"]


@pytest.mark.parametrize("sizes", [{"authorization": 4 * KIB}, {"x-large": 28 * KIB}], ids=["token", "others"])
async def test_headers_of_some_30_kib_pass_always(
    mesh: Mesh,
    edge: grpc.aio.Channel,
    web: httpx.AsyncClient,
    manager: dict[str, str],
    sizes: dict[str, int],
) -> None:
    headers = manager | {name: "a" * size for name, size in sizes.items()}
    if "authorization" in sizes:
        headers = dict(bearer(mesh.issuer.token("carol", ["catalog-manager"], filler="a" * (2 * KIB + 256))))
        assert 3.5 * KIB < len(headers["authorization"]) < 5 * KIB

    for _ in range(5):
        assert await over_grpc(edge, UPDATE, b"", headers) == (0, "")
        assert await over_grpc_web(web, UPDATE, b"", headers, text=False) == (0, "")
        assert (await web.patch("/v1/products/mug", json={}, headers=headers)).status_code == 200


async def code_of_its_own(mesh: Mesh, headers: dict[str, str], number: int) -> int:
    """What a call comes to that shares its connection with none."""
    async with grpc.aio.insecure_channel(mesh.envoy.edge, options=[("a channel of its own", number)]) as channel:
        code, _ = await over_grpc(channel, GET, b"", headers)
        return code


TOO_MUCH = [{"x-large": "a" * 33 * KIB}, {"x-large": "a" * 70 * KIB}, {f"x-{number}": "a" for number in range(250)}]


@pytest.mark.parametrize("headers", TOO_MUCH, ids=["large", "very large", "many"])
async def test_headers_beyond_that_are_refused_by_envoy_and_no_instance_suffers(
    mesh: Mesh, edge: grpc.aio.Channel, web: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    name = "cluster.product.outlier_detection.ejections_enforced_total"
    ejected = mesh.envoy.number(name)

    refused = await web.get("/v1/products/mug", headers=headers)
    # Far more than eject an instance. For very large ones Envoy takes a second to hang up.
    codes = set(await asyncio.gather(*(code_of_its_own(mesh, headers, number) for number in range(12))))

    assert refused.status_code == 431
    told = {"code": 8, "message": "The headers are larger than 32 KiB, or more than 200.", "details": []}
    assert refused.json() == told
    assert codes <= {grpc.StatusCode.INTERNAL.value[0], grpc.StatusCode.UNAVAILABLE.value[0]}
    assert mesh.envoy.number(name) == ejected
    assert await over_grpc(edge, GET, b"", {}) == (0, "")


async def test_many_headers_pass(edge: grpc.aio.Channel, web: httpx.AsyncClient) -> None:
    headers = {f"x-{number}": "a" for number in range(150)}

    assert await over_grpc(edge, GET, b"", headers) == (0, "")
    assert (await web.get("/v1/products/mug", headers=headers)).status_code == 200


@pytest.mark.parametrize("kib", [8, 12])
async def test_a_long_path_passes(web: httpx.AsyncClient, kib: int) -> None:
    answer = await web.get(f"/v1/products?pageToken={'a' * kib * KIB}")

    assert answer.status_code == 200
