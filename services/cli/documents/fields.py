"""Fields of documents as a person writes them: paths with dots, durations with units, enum values by their last words.

Documents are protobuf-JSON objects here; whether a whole one is good is told by chassis.documents.
"""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from services.chassis.documents import DocumentRefused, near

_UNITS = {"ns": "0.000000001", "us": "0.000001", "ms": "0.001", "s": "1", "m": "60", "h": "3600", "d": "86400"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_WHOLE_DURATION = re.compile(rf"(?:{_DURATION.pattern})+")


def flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Every field by its path; lists are one value."""
    fields: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and value:
            fields |= flat(value, f"{path}{name}.")
        else:
            fields[f"{path}{name}"] = value
    return fields


def shown(value: object) -> str:
    """As `assigned` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def found(document: Mapping[str, Any], descriptor: Any, path: str) -> Any:  # noqa: ANN401
    """The value at a path, None where there is none. Raises DocumentRefused for a path that cannot be."""
    value: Any = document
    for name in [name for name, _ in _steps(descriptor, path)]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def assigned(document: dict[str, Any], descriptor: Any, path: str, text: str) -> None:  # noqa: ANN401
    """Puts a value where it belongs. Raises DocumentRefused."""
    *above, (name, kind) = _steps(descriptor, path)
    inner = document
    for parent, _ in above:
        inner = inner.setdefault(parent, {})
    inner[name] = _value(kind, path, text)


def removed(document: dict[str, Any], descriptor: Any, path: str) -> bool:  # noqa: ANN401
    """Takes a field away, and what is empty without it; False when it was not there. Raises DocumentRefused."""
    names = [name for name, _ in _steps(descriptor, path)]
    parents = [document]
    for name in names[:-1]:
        inner = parents[-1].get(name)
        if not isinstance(inner, dict):
            return False
        parents.append(inner)
    if names[-1] not in parents[-1]:
        return False
    del parents[-1][names[-1]]
    for parent, name in reversed(list(zip(parents[:-1], names[:-1], strict=True))):
        if not parent[name]:
            del parent[name]
    return True


def seconds(text: str) -> Decimal | None:
    """What a duration such as 1m30s lasts; None for what is none."""
    if not _WHOLE_DURATION.fullmatch(text):
        return None
    return sum((Decimal(number) * Decimal(_UNITS[unit]) for number, unit in _DURATION.findall(text)), Decimal(0))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields that differ, with the old and the new value; None where there is none."""
    before, after = flat(old), flat(new)
    names = [*before, *(name for name in after if name not in before)]
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _steps(descriptor: Any, path: str) -> list[tuple[str, Any]]:  # noqa: ANN401
    """The names of a path, each with its field; that of a key of a map is the map's value."""
    steps: list[tuple[str, Any]] = []
    message, names = descriptor, iter(path.split("."))
    for name in names:
        at = ".".join(step for step, _ in steps)
        if message is None or message.full_name.startswith("google.protobuf."):
            raise DocumentRefused(f"{path}: {at} has no fields")
        known = {field.name: field for field in message.fields}
        if name not in known:
            raise DocumentRefused(f"{at}{'.' if at else ''}{name}: no such field{near(name, [*known])}")
        field = known[name]
        steps.append((name, field))
        message = None if _is_list(field) else field.message_type
        if _is_map(field) and (key := next(names, None)) is not None:
            value = field.message_type.fields_by_name["value"]
            steps.append((key, value))
            message = value.message_type
    return steps


def _is_map(field: Any) -> bool:  # noqa: ANN401
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_list(field: Any) -> bool:  # noqa: ANN401
    return field.is_repeated and not _is_map(field)


def _value(field: Any, path: str, text: str) -> Any:  # noqa: ANN401
    """The JSON value that a person means. Raises DocumentRefused for what cannot be one; ranges are not looked at."""
    if field.enum_type:
        names = [*_enum_names(field.enum_type)]
        if (name := next((name for name in names if _same_word(name, text, field.enum_type)), None)) is None:
            raise DocumentRefused(f"{path}: takes one of {', '.join(names[1:])}, not {text!r}")
        return name
    if field.message_type and field.message_type.name == "Duration":
        return _seconds(path, text)
    if field.cpp_type == field.CPPTYPE_STRING and not field.is_repeated:
        return text
    kind, type_ = _json_type(field)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
        raise DocumentRefused(f"{path}: takes {kind}, not {text!r}")
    return value


def _json_type(field: Any) -> tuple[str, Any]:  # noqa: ANN401
    if _is_list(field):
        return "a list in JSON", list
    if field.message_type:
        return "an object in JSON", dict
    if field.cpp_type == field.CPPTYPE_BOOL:
        return "true or false", bool
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return "a number", (int, float)
    return "a whole number", int


def _seconds(path: str, text: str) -> str:
    """`1m30s` as `90s`."""
    if (lasting := seconds(text)) is None:
        raise DocumentRefused(f"{path}: takes a duration such as 1.5s or 10m, not {text!r}")
    return f"{lasting.normalize():f}s"


def _enum_names(enum: Any) -> Iterator[str]:  # noqa: ANN401
    return (value.name for value in enum.values)


def _same_word(name: str, text: str, enum: Any) -> bool:  # noqa: ANN401
    """LOG_LEVEL_DEBUG is also meant by DEBUG and debug."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return text.upper().replace("-", "_") in (name, name.removeprefix(prefix))
