"""Requests made from descriptors.

Apt ones keep to the rules of the contract or miss them by one, wild ones keep to the types alone, and broken ones are
bytes that keep to nothing.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

from buf.validate import validate_pb2
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import duration_pb2, field_mask_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.type import money_pb2
from hypothesis import strategies as st

from tests.fuzz.known import Known, type_of

type Made = st.SearchStrategy[Any]

DEPTH = 4
"""Of messages in messages; deeper ones are left out."""

TEXT = st.characters(codec="utf-8")
ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\n", "' or 1=1 --", '"; drop table orders; --', "%s%n", "${jndi:x}", "../../etc/passwd",
    "\u202etxt.exe", "\u2067\u0627\u0644\u0639\u0631\u0628\u064a\u0629\u2069", "\ufeff", "\uffff", "e\u0301\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ufb01", "\u0130", "NaN", "null", "-1", "1e999", "x" * 2_000,
)  # fmt: skip
ODD_PATHS = ("", "*", ".", "a..b", "name.name.name", "products/mug", "etag", "x" * 300, "price.units", "`a b`", "PRICE")

FOREVER = st.sampled_from(
    [0, 1, -1, 2**31, 253402300799, 253402300800, -62135596800, -62135596801, 2**63 - 1, -(2**63)]
)

LIMITS: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


class Requests:
    """Strategies for messages. What is `apt` takes names from what is known."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._made: dict[tuple[str, bool, int], Made] = {}

    def message(self, descriptor: Descriptor, *, apt: bool, depth: int = 0) -> Made:
        key = descriptor.full_name, apt, depth
        if key not in self._made:
            self._made[key] = self._message(descriptor, apt, depth)
        return self._made[key]

    def _message(self, descriptor: Descriptor, apt: bool, depth: int) -> Made:
        if descriptor.full_name in WELL_KNOWN and apt:
            return WELL_KNOWN[descriptor.full_name]
        fields = {}
        for field in descriptor.fields:
            if field.message_type is None or depth < DEPTH:
                value = self._field(descriptor, field, apt, depth)
                fields[field.name] = _with(st.none(), value, one_in=_absence(field, apt))
        new = message_factory.GetMessageClass(descriptor)
        return st.fixed_dictionaries(fields).map(lambda values: _filled(new(), values))

    def _field(self, owner: Descriptor, field: FieldDescriptor, apt: bool, depth: int) -> Made:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if not field.is_repeated:
            return self._one(owner, field, rules, apt, depth)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            return st.dictionaries(
                self._one(owner, key, rules.map.keys, apt, depth),
                self._one(owner, value, rules.map.values, apt, depth + 1),
                max_size=3,
            )
        one = self._one(owner, field, rules.repeated.items, apt, depth)
        few = st.lists(one, min_size=rules.repeated.min_items if apt else 0, max_size=4)
        if not apt or not rules.repeated.max_items:
            return few
        at_the_edge = [0, rules.repeated.max_items, rules.repeated.max_items + 1]
        return _with(
            st.tuples(st.sampled_from(at_the_edge), one).map(lambda drawn: [drawn[1]] * drawn[0]), few, one_in=8
        )

    def _one(
        self, owner: Descriptor, field: FieldDescriptor, rules: validate_pb2.FieldRules, apt: bool, depth: int
    ) -> Made:
        if field.message_type is not None:
            if apt and rules.HasField("duration"):
                return _duration(rules.duration)
            return self.message(field.message_type, apt=apt, depth=depth + 1)
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return st.booleans()
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return st.floats(width=32 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else 64)
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return st.binary(max_size=50)
            case FieldDescriptor.CPPTYPE_STRING:
                wild = st.text(TEXT, max_size=30) | st.sampled_from(ODD_TEXTS)
                return _with(wild, self._apt_text(owner, field, rules.string), one_in=10) if apt else wild
            case FieldDescriptor.CPPTYPE_ENUM if apt:
                assert field.enum_type is not None
                return _with(
                    st.integers(-1, 99), st.sampled_from([value.number for value in field.enum_type.values]), one_in=10
                )
            case kind:
                low, high = LIMITS[kind]
                return _apt_integer(rules, low, high) if apt else st.integers(low, high)

    def _apt_text(self, owner: Descriptor, field: FieldDescriptor, rules: validate_pb2.StringRules) -> Made:
        """What the field is for, by its name and its rules; most often something that is known."""
        reference: Any = field.GetOptions().Extensions[resource_pb2.resource_reference]  # type: ignore[index]  # untyped
        kind = reference.type or reference.child_type
        if field.name == "name":
            kind = kind or type_of(owner.GetOptions())
        shaped = _shaped(rules)
        if kind:
            return _with(shaped, self._some(kind), one_in=8)
        if field.name.endswith("etag"):
            return st.one_of(
                st.just(""), self._some("etag"), st.sampled_from(['"1"', '"2"', '"999"', '"-1"', "1", '"'])
            )
        if field.name == "page_token":
            return st.one_of(
                st.just(""), self._some("page_token"), self._some("page_token").map(lambda told: told[:-1])
            )
        if field.name == "order_by":
            words = st.sampled_from(
                ["display_name", "price", "create_time", "name", "etag", "desc", ",", "", "nonsense"]
            )
            return st.one_of(shaped, st.lists(words, max_size=3).map(" ".join))
        if field.name == "request_id":
            # Some of few, so that they meet again.
            numbers = _with(st.integers(0, 9), st.integers(0, 2**31), one_in=4)
            return _with(shaped, numbers.map(lambda number: f"fuzz {number}"), one_in=10)
        if field.name.endswith("_id"):
            kind = f"shopmesh.dev/{field.name.removesuffix('_id').capitalize()}"
            return shaped | self._some(kind).map(lambda name: name.rpartition("/")[2])
        return shaped

    def _some(self, kind: str) -> Made:
        return st.integers(0, 1_000).map(lambda number: self._known.pick(kind, number))


def _with(rare: Made, usual: Made, *, one_in: int) -> Made:
    """Mostly the usual; the rare one time in so many. What is wrong in one field hides what is wrong in another."""
    if not one_in:
        return usual
    return st.integers(1, one_in).flatmap(lambda drawn: rare if drawn == one_in else usual)


def _absence(field: FieldDescriptor, apt: bool) -> int:
    if not apt:
        return 2
    behaviors: Any = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]  # type: ignore[index]  # untyped
    return 20 if field_behavior_pb2.REQUIRED in behaviors else 3


def _shaped(rules: validate_pb2.StringRules) -> Made:
    if rules.pattern and not (rules.min_len or rules.max_len):
        return st.from_regex(rules.pattern)
    if rules.uri:
        return st.sampled_from(
            ["", "https://shop.example/mug.png", "urn:x", "http://[::1]:80/%00?#", "data:,x", "no uri"]
        )
    low, high = rules.min_len, rules.max_len or 50
    letters = st.characters(codec="utf-8", exclude_characters="\0")
    edges = st.tuples(st.sampled_from([max(low - 1, 0), low, high, high + 1]), letters).map(
        lambda drawn: drawn[0] * drawn[1]
    )
    return _with(edges, st.text(letters, min_size=low, max_size=max(low, min(high, 20))), one_in=8)


def _apt_integer(rules: validate_pb2.FieldRules, low: int, high: int) -> Made:
    kind = rules.WhichOneof("type")
    if kind is None:
        return st.integers(-3, 10) | st.sampled_from([low, high])
    numbers = getattr(rules, kind)
    at_least = {"gte": numbers.gte, "gt": numbers.gt + 1}.get(numbers.WhichOneof("greater_than") or "", low)
    at_most = {"lte": numbers.lte, "lt": numbers.lt - 1}.get(numbers.WhichOneof("less_than") or "", high)
    edges = [at_least, at_most, max(at_least - 1, low), min(at_most + 1, high)]
    small = st.integers(max(at_least, -5), min(at_most, 5))
    return _with(st.sampled_from(edges) | st.integers(at_least, at_most), small, one_in=6)


def _duration(rules: validate_pb2.DurationRules) -> Made:
    edges = [
        rules.gte.ToNanoseconds(),
        rules.lte.ToNanoseconds(),
        rules.gte.ToNanoseconds() - 1,
        rules.lte.ToNanoseconds() + 1,
    ]
    usual = st.integers(2 * 10**9, 60 * 10**9)

    def message(nanos: int) -> duration_pb2.Duration:
        duration = duration_pb2.Duration()
        duration.FromNanoseconds(nanos)
        return duration

    return _with(_spans(duration_pb2.Duration), _with(st.sampled_from(edges), usual, one_in=6).map(message), one_in=8)


def _spans(message: type[Message]) -> Made:
    nanos = st.sampled_from([0, 1, -1, 999_999_999, 1_000_000_000, -(2**31), 2**31 - 1])
    return st.builds(message, seconds=FOREVER, nanos=nanos)


WELL_KNOWN: dict[str, Made] = {
    "google.protobuf.Timestamp": _with(
        _spans(timestamp_pb2.Timestamp),
        st.builds(timestamp_pb2.Timestamp, seconds=st.integers(1_600_000_000, 1_900_000_000)),
        one_in=4,
    ),
    "google.protobuf.Duration": _with(
        _spans(duration_pb2.Duration), st.builds(duration_pb2.Duration, seconds=st.integers(1, 60)), one_in=4
    ),
    "google.protobuf.FieldMask": st.builds(
        field_mask_pb2.FieldMask,
        paths=st.lists(
            st.sampled_from(["display_name", "description", "price", "image_uri"]) | st.sampled_from(ODD_PATHS),
            max_size=4,
        ),
    ),
    "google.type.Money": st.builds(
        money_pb2.Money,
        currency_code=_with(st.sampled_from(["USD", "", "eur", "€€€"]), st.just("EUR"), one_in=8),
        units=_with(st.sampled_from([0, -1, 999_999, 1_000_000, 1_000_001, 2**63 - 1]), st.integers(1, 50), one_in=8),
        nanos=_with(st.sampled_from([1, -10_000_000, 990_000_000, 10**9, 2**31 - 1]), st.just(0), one_in=8),
    ),
}


def _filled(message: Message, values: dict[str, Any]) -> Message:
    for name, value in values.items():
        if value is None:
            continue
        match value:
            case Message():
                getattr(message, name).CopyFrom(value)
            case list():
                getattr(message, name).extend(value)
            case dict():
                _put(getattr(message, name), value)
            case _:
                setattr(message, name, value)
    return message


def _put(target: Any, entries: dict[Any, Any]) -> None:
    for key, value in entries.items():
        if isinstance(value, Message):
            target[key].CopyFrom(value)
        else:
            target[key] = value


# --- Bytes


def broken(whole: st.SearchStrategy[Message]) -> Made:
    """Bytes near a message, and bytes far from any."""
    sent = whole.map(lambda message: message.SerializeToString())
    number = st.integers(0, 10_000)
    return st.one_of(
        st.binary(max_size=100),
        st.tuples(sent, number).map(lambda drawn: drawn[0][: drawn[1] % (len(drawn[0]) + 1)]),
        st.tuples(sent, number, st.integers(0, 255)).map(lambda drawn: _flipped(*drawn)),
        st.tuples(sent, _fields()).map(lambda drawn: drawn[0] + drawn[1]),
        _fields(),
        st.integers(1, 200).map(lambda deep: b"\x0b" * deep + b"\x0c" * deep),
        st.integers(1, 150).map(_nested),
    )


def _flipped(sent: bytes, at: int, byte: int) -> bytes:
    at %= len(sent) + 1
    return sent[:at] + bytes([byte]) + sent[at + 1 :]


def _nested(deep: int) -> bytes:
    sent = b""
    for _ in range(deep):
        sent = b"\x0a" + _varint(len(sent)) + sent
    return sent


def _fields() -> Made:
    """Tags that may be of the message, with values of any wire type, and text that is no UTF-8."""
    numbers = st.integers(0, 10) | st.sampled_from([19_000, 2**29 - 1, 2**29])
    values: Sequence[Callable[[bytes], bytes]] = (
        lambda content: _varint(int.from_bytes(content[:8])),
        lambda content: content[:8].ljust(8, b"\xff"),
        lambda content: _varint(len(content)) + content,
        lambda _: b"",
        lambda _: b"",
        lambda content: content[:4].ljust(4, b"\xff"),
        lambda content: content,
        lambda content: content,
    )
    contents = st.binary(max_size=20) | st.sampled_from(
        [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", struct.pack("<d", math.nan)]
    )
    one = st.tuples(numbers, st.integers(0, 7), contents).map(
        lambda drawn: _varint(drawn[0] << 3 | drawn[1]) + values[drawn[1]](drawn[2])
    )
    return st.lists(one, min_size=1, max_size=5).map(b"".join)


def _varint(number: int) -> bytes:
    sent = bytearray()
    while number > 127:
        sent.append(number & 127 | 128)
        number >>= 7
    return bytes([*sent, number])


def metadata() -> Made:
    """Keys and values that the wire takes and nobody expects."""
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(str.strip)
    keys = st.sampled_from([
        "x-junk", "traceparent", "tracestate", "baggage", "x-request-id", "x-forwarded-for", "x-instance", "cookie",
        "origin", "x-b3-traceid", "accept-language", "x-grpc-web",
    ])  # fmt: skip
    tokens = st.sampled_from(["Bearer ", "Basic ", ""]).flatmap(
        lambda scheme: printable.map(lambda text: scheme + text)
    )
    odd = st.one_of(
        st.tuples(keys, printable),
        st.tuples(st.sampled_from(["x-junk-bin", "grpc-trace-bin", "traceparent-bin"]), st.binary(max_size=200)),
        st.tuples(keys, st.integers(100, 3_000).map(lambda size: "x" * size)),
    )
    return _with(
        st.tuples(st.just("authorization"), tokens).map(lambda one: [one]), st.lists(odd, max_size=4), one_in=10
    )
