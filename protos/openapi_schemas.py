"""Messages and enums as JSON Schema: protobuf's JSON within protovalidate's rules, comments as descriptions.

Fails on what it has no word for, so that no rule of the contracts is left out unnoticed.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from buf.validate import validate_pb2
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message
from openapi_words import CEL, RULES, SCALARS, STATUS, WELL_KNOWN

type Json = dict[str, Any]
type Path = tuple[int, ...]
"""Where in a file something stands, as source info has it."""

_DETAILS = ("ErrorInfo", "BadRequest", "RetryInfo")


class Schemas:
    """What has been read of the contracts, and the schemas that were asked for so far."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        """Comments are there if the files have source info."""
        self.written: dict[str, Json] = {}
        """By the name under which documents refer to them."""
        self._messages: dict[str, tuple[DescriptorProto, str, list[str]]] = {}
        """By full name: descriptor, comment, comments of the fields."""
        self._enums: dict[str, tuple[EnumDescriptorProto, str]] = {}
        self._names: dict[str, str] = {}
        """By type of a resource: the pattern of its names."""
        for file in files:
            said = comments(file)
            for at, enum in enumerate(file.enum_type):
                self._enums[f".{file.package}.{enum.name}"] = (enum, said.get((5, at), ""))
            for at, message in enumerate(file.message_type):
                self._read(f".{file.package}", message, said, (4, at))

    def _read(self, scope: str, message: DescriptorProto, said: Mapping[Path, str], here: Path) -> None:
        name = f"{scope}.{message.name}"
        fields = [said.get((*here, 2, at), "") for at in range(len(message.field))]
        self._messages[name] = (message, said.get(here, ""), fields)
        for one in message.field:
            of = _extension(one.options, resource_pb2.resource_reference).type
            if of and (pattern := _rules(one).string.pattern):
                self._names[of] = pattern
        for at, enum in enumerate(message.enum_type):
            self._enums[f"{name}.{enum.name}"] = (enum, said.get((*here, 4, at), ""))
        for at, nested in enumerate(message.nested_type):
            self._read(name, nested, said, (*here, 3, at))

    def ref(self, name: str) -> Json:
        """A reference to a message or an enum by its full name; the schema is written when it is needed first."""
        if name in WELL_KNOWN:
            return dict(WELL_KNOWN[name])
        short = ".".join(part for part in name.split(".") if part[:1].isupper())
        if short not in self.written:
            self.written[short] = {"x-protobuf": name[1:]}
            self.written[short] |= self._enum(name) if name in self._enums else self.object(name)
        elif self.written[short]["x-protobuf"] != name[1:]:
            raise NotImplementedError(f"two schemas {short}")
        return {"$ref": f"#/components/schemas/{short}"}

    def object(self, name: str, without: Collection[str] = (), *, partial: bool = False) -> Json:
        """The schema of a message; of a `partial` one no field is required.

        `without` are the fields that a path fills, as `name` or, of a field's field, `product.name`. Nobody has to send
        what a path has begun.
        """
        message, comment, said = self._messages[name]
        properties: dict[str, Json] = {}
        required: list[str] = []
        begun = {field.partition(".")[0] for field in without}
        for one, description in zip(message.field, said, strict=True):
            if one.name not in without:
                properties[one.json_name] = self._property(one) | {"description": description}
                if field_behavior_pb2.REQUIRED in _behaviour(one) and not partial and one.name not in begun:
                    required.append(one.json_name)
        schema = {"type": "object", "description": comment, "properties": properties}
        return schema | {"required": required} if required else schema

    def status(self) -> Json:
        """google.rpc.Status, with the details that refusals have; each says which message it is."""
        status: Json = json.loads(json.dumps(STATUS))
        for name in _DETAILS:
            detail = self.object(f".google.rpc.{name}") | {"title": name, "required": ["@type"]}
            detail["properties"]["@type"] = {"const": f"type.googleapis.com/google.rpc.{name}"}
            status["properties"]["details"]["items"]["anyOf"].append(detail)
        return status

    def name_pattern(self, message: str, field: str) -> str:
        """What protovalidate says of a field (`product.name`), or of other names of the resource that has it."""
        descriptor = self._messages[message][0]
        first, _, rest = field.partition(".")
        one = next(one for one in descriptor.field if one.name == first)
        if rest:
            return self.name_pattern(one.type_name, rest)
        return _rules(one).string.pattern or self._names[_extension(descriptor.options, resource_pb2.resource).type]

    def _property(self, one: FieldDescriptorProto) -> Json:
        rules, entry = _rules(one), self._messages.get(one.type_name)
        if rules.ignore == validate_pb2.IGNORE_ALWAYS and entry:
            schema = self.object(one.type_name, partial=True)
        elif entry and entry[0].options.map_entry:
            schema = {"type": "object", "additionalProperties": self._plain(entry[0].field[1])}
        elif one.label == FieldDescriptorProto.LABEL_REPEATED:
            items = _ruled(self._plain(one), rules.repeated.items)
            schema = {"type": "array", "items": items} | dict(_limits(rules.repeated))
        else:
            schema = _ruled(self._plain(one), rules)
        return schema | ({"readOnly": True} if field_behavior_pb2.OUTPUT_ONLY in _behaviour(one) else {})

    def _plain(self, one: FieldDescriptorProto) -> Json:
        """Of one value, without rules."""
        return self.ref(one.type_name) if one.type_name else dict(SCALARS[one.type])

    def _enum(self, name: str) -> Json:
        enum, comment = self._enums[name]
        return {"type": "string", "description": comment, "enum": [value.name for value in enum.value]}


def comments(file: FileDescriptorProto) -> dict[Path, str]:
    """What stands before a message, field, service or rpc, as one line."""
    return {tuple(at.path): " ".join(at.leading_comments.split()) for at in file.source_code_info.location}


def _rules(one: FieldDescriptorProto) -> validate_pb2.FieldRules:
    return one.options.Extensions[validate_pb2.field]


def _behaviour(one: FieldDescriptorProto) -> Collection[int]:
    behaviour: Collection[int] = _extension(one.options, field_behavior_pb2.field_behavior)
    return behaviour


def _extension(options: Any, extension: Any) -> Any:  # noqa: ANN401  google.api is published without types
    return options.Extensions[extension]


def _ruled(schema: Json, rules: validate_pb2.FieldRules) -> Json:
    """The schema within what protovalidate allows."""
    kind = rules.WhichOneof("type")
    if kind == "int64":
        # Within a range that JSON's numbers have; protobuf reads those as well as strings.
        schema = {"type": "integer", "format": "int64"}
    if kind:
        schema |= dict(_limits(getattr(rules, kind)))
    for cel in rules.cel:
        matches = re.fullmatch(r"this\.matches\('(.*)'\)", cel.expression)
        schema = {"allOf": [schema, {"pattern": matches[1]} if matches else CEL[cel.id]]}
    if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        return {"anyOf": [{"const": ""}, schema]}
    return schema


def _limits(rules: Message) -> Iterator[tuple[str, Any]]:
    for rule, value in rules.ListFields():
        if rule.name != "items":
            yield from RULES[rule.name](value).items()
