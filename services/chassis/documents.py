"""Documents of etcd: protobuf-JSON over defaults, looked at in one way by those who write and those who read them."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from services.chassis.messages import overlaid, violations


class DocumentRefused(ValueError):
    """Not a document of its message; the text is one line and names the field."""

    @classmethod
    def because(cls, wrong: Iterable[tuple[str, str]]) -> "DocumentRefused":
        """Of paths of fields and why; a path is empty where it is the whole."""
        return cls("; ".join(f"{field}: {what}" if field else what for field, what in wrong))


def effective[M: Message](defaults: M, document: bytes) -> M:
    """The defaults with what the document says instead, whole and within the limits of the contract.

    Raises DocumentRefused.
    """
    message = overlaid(defaults, parsed(document, type(defaults)))
    if wrong := violations(message):
        raise DocumentRefused.because(wrong)
    return message


def parsed[M: Message](document: bytes, kind: type[M]) -> M:
    """Only what the document says, nothing if it is empty; limits are not looked at. Raises DocumentRefused."""
    message = kind()
    try:
        fields = json.loads(document.decode() or "{}", object_pairs_hook=_once)
        if not isinstance(fields, dict):
            raise DocumentRefused("not a JSON object")
        if unknown := list(_unknown(message.DESCRIPTOR, fields, "")):
            raise DocumentRefused("; ".join(unknown))
        json_format.ParseDict(fields, message)
    except json_format.ParseError as error:
        raise DocumentRefused(" ".join(str(error).split())) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DocumentRefused(f"not JSON: {error}") from error
    return message


def rendered(message: Message) -> bytes:
    """As values stand in etcd: one line, proto field names."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()


def near(word: str, words: list[str]) -> str:
    """A hint for who mistyped: ` (did you mean edge?)`, else all there is."""
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else f" (there is {', '.join(words)})"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise DocumentRefused(f"{next(name for name in names if names.count(name) > 1)}: said twice")
    return fields


def _unknown(descriptor: Any, fields: Mapping[str, object], path: str) -> Iterator[str]:  # noqa: ANN401  two types, by implementation
    known = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    for name, value in fields.items():
        if name not in known:
            yield f"{path}{name}: no such field{near(name, [field.name for field in descriptor.fields])}"
            continue
        field, inner = known[name], known[name].message_type
        if inner is None or inner.full_name.startswith("google.protobuf."):
            continue
        if inner.GetOptions().map_entry:
            inner_values = inner.fields_by_name["value"].message_type
            if inner_values is not None and isinstance(value, dict):
                for key, item in value.items():
                    yield from _unknown(inner_values, _object(item), f"{path}{name}.{key}.")
        elif field.is_repeated:
            for at, item in enumerate(value if isinstance(value, list) else ()):
                yield from _unknown(inner, _object(item), f"{path}{name}[{at}].")
        else:
            yield from _unknown(inner, _object(value), f"{path}{name}.")


def _object(value: object) -> Mapping[str, object]:
    """What is no object is refused by the parser."""
    return value if isinstance(value, dict) else {}
