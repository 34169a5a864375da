"""Refusals on the wire and back."""

import grpc
import pytest
from google.rpc import status_pb2
from grpc.aio import AioRpcError, Metadata

from services.chassis import errors
from services.chassis.errors import RpcRefusal, refusal_of, status_refusal, to_status
from services.refusals import InvalidRequest, NotFound, Refusal, Unavailable


class MugNotFound(NotFound):
    reason = "MUG_NOT_FOUND"
    message = "There is no such mug."


def answered(code: grpc.StatusCode, *trailing: tuple[str, bytes]) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), "details")


def test_every_kind_of_refusal_has_a_code() -> None:
    assert set(errors.CODE) == set(Refusal.__subclasses__())


def test_a_refusal_is_read_as_it_was_written() -> None:
    status = to_status(MugNotFound(mug="m1"), "shop")
    error = answered(grpc.StatusCode.NOT_FOUND, (errors.DETAILS_KEY, status.SerializeToString()))

    expected = RpcRefusal(grpc.StatusCode.NOT_FOUND, "MUG_NOT_FOUND", {"mug": "m1"}, "There is no such mug.")
    assert refusal_of(error) == expected
    assert status_refusal(status) == expected


@pytest.mark.parametrize(
    "error",
    [
        answered(grpc.StatusCode.UNAVAILABLE),
        answered(grpc.StatusCode.UNAVAILABLE, (errors.DETAILS_KEY, b"\xff")),
        answered(grpc.StatusCode.UNAVAILABLE, (errors.DETAILS_KEY, status_pb2.Status(code=14).SerializeToString())),
    ],
    ids=["a bare code", "nonsense", "no ErrorInfo"],
)
def test_without_an_error_info_no_service_spoke(error: AioRpcError) -> None:
    assert refusal_of(error) is None


def test_a_subclass_of_a_kind_has_the_code_of_the_kind() -> None:
    class KitchenAway(Unavailable):
        reason = "KITCHEN_AWAY"
        message = "The kitchen is away."

    class KitchenOnFire(KitchenAway): ...

    assert errors.code_of(to_status(KitchenOnFire(), "shop")) is grpc.StatusCode.UNAVAILABLE
    assert errors.code_of(to_status(InvalidRequest(("a", "b")), "shop")) is grpc.StatusCode.INVALID_ARGUMENT
