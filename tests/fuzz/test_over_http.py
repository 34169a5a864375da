"""Over gRPC-web and REST, what is no call at all is told so, in the words of the shop."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from google.api import annotations_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.calling import FAULTS, INNER, STREAM_S, Outside, callers
from tests.fuzz.contracts import RPCS, Called
from tests.fuzz.requests import ODD_TEXTS, TEXT, broken
from tests.fuzz.searching import searching

CODES = {str(code.value[0]): code for code in StatusCode}
HTTP_ERRORS = {400, 401, 403, 404, 409, 413, 415, 429}

# Not 1, "compressed": without grpc-encoding gRPC's specification wants INTERNAL for it.
FLAGS = st.sampled_from([0, 0, 0, 2, 0x7F, 0x80, 0xFF])
LENGTHS = st.sampled_from([None, None, None, 0, 1, 100, 2**22 + 1, 2**32 - 1])
"""None: as long as it is."""

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(TEXT, max_size=10) | st.sampled_from(ODD_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(TEXT, max_size=5), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.one_of(
    JSONS.map(json.dumps).map(str.encode),
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"{", b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b'"\\ud800"', b"[" * 2_000, b'{"order":' * 200, b"1e999"]
    ),
)

at_edge = pytest.mark.parametrize("called", [called for called in RPCS if called.rpc.at_edge], ids=str)


@pytest.fixture(scope="session")
def web(outside: Outside) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{outside.shop.edge}", trust_env=False, timeout=30) as web:
        yield web


@at_edge
@searching(10)
@given(data=st.data())
def test_frames_that_are_none(data: st.DataObject, called: Called, outside: Outside, web: httpx.Client) -> None:
    content = data.draw(broken(outside.requests.message(called.method.input_type, apt=True)))
    length = data.draw(LENGTHS)
    frame = bytes([data.draw(FLAGS)]) + (len(content) if length is None else length).to_bytes(4) + content
    frame = frame[: data.draw(st.integers(0, len(frame)))] if data.draw(st.booleans()) else frame
    as_text = data.draw(st.booleans())
    headers = {"content-type": f"application/grpc-web{'-text' if as_text else ''}", "x-grpc-web": "1"}
    if called.rpc.streaming:
        headers["grpc-timeout"] = f"{round(STREAM_S * 1000)}m"

    answer = web.post(
        called.rpc.path,
        content=base64.b64encode(frame) if as_text else frame,
        headers=headers | _bearer(data, called, outside),
    )

    code, message = _grpc_status(answer)
    outside.tally[f"{called} gRPC-web"][code.name] += 1
    assert code not in FAULTS or (called.rpc.streaming and code is StatusCode.DEADLINE_EXCEEDED), message
    assert not INNER.search(message), message


@at_edge
@searching(10)
@given(data=st.data())
def test_paths_and_bodies_that_are_none(
    data: st.DataObject, called: Called, outside: Outside, web: httpx.Client
) -> None:
    rule: Any = called.method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]  # published without types
    method, template = next((verb, getattr(rule, verb)) for verb in ("get", "post", "patch") if getattr(rule, verb))
    words = st.text(TEXT, min_size=1, max_size=10).map(lambda text: quote(text, safe="")) | st.just("fuzz")
    path = re.sub(r"\{[^}]*\}", lambda _: data.draw(words), template)
    names = st.sampled_from([*called.method.input_type.fields_by_name, "x"])
    query = data.draw(st.dictionaries(names, words, max_size=2))

    answer = web.request(
        method,
        path,
        params=query,
        content=data.draw(BODIES) if method != "get" else None,
        headers={"content-type": "application/json"} | _bearer(data, called, outside),
    )

    outside.tally[f"{called} REST"][str(answer.status_code)] += 1
    assert answer.status_code == 200 or answer.status_code in HTTP_ERRORS, answer.text
    if answer.status_code != 200:
        refusal = answer.json()
        assert set(refusal) == {"code", "message", "details"}
        assert CODES[str(refusal["code"])] not in FAULTS
        assert not INNER.search(refusal["message"]), refusal["message"]


def _bearer(data: st.DataObject, called: Called, outside: Outside) -> dict[str, str]:
    caller = data.draw(st.sampled_from(callers(called.rpc)), "caller")
    return {"authorization": f"Bearer {outside.token(caller)}"} if caller else {}


def _grpc_status(answer: httpx.Response) -> tuple[StatusCode, str]:
    """From the headers when there was no message, else from the last frame of the body."""
    told = dict(answer.headers)
    if "grpc-status" not in told:
        last = answer.content[answer.content.rindex(b"grpc-status:") :].decode()
        told = dict(re.findall(r"(grpc-[a-z]+): *([^\r]*)", last))
    return CODES[told["grpc-status"]], told.get("grpc-message", "")
