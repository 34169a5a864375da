"""How protobuf, protovalidate and our refusals read in OpenAPI: the tables of openapi.py."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as F

INFO = {
    "title": "shopmesh",
    "description": (
        "The shop over REST. The same rpcs answer gRPC and gRPC-web; this document is made from their contracts. "
        "Fields have their protobuf-JSON names; the names of the .proto files are read too, as are the other "
        "spellings that protobuf-JSON allows (numbers as strings, null for what is absent). Unknown "
        "query parameters are refused, unknown fields of bodies ignored."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}

_INT32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32 = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1}
_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,18}$"}

SCALARS: dict[int, dict[str, Any]] = {
    F.TYPE_STRING: {"type": "string"},
    F.TYPE_BOOL: {"type": "boolean"},
    F.TYPE_BYTES: {"type": "string", "format": "byte"},
    F.TYPE_INT32: _INT32,
    F.TYPE_UINT32: _UINT32,
    F.TYPE_INT64: _INT64,
    F.TYPE_UINT64: _INT64 | {"pattern": "^[0-9]{1,19}$"},
    F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    F.TYPE_FLOAT: {"type": "number", "format": "float"},
}

WELL_KNOWN: dict[str, dict[str, Any]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    ".google.protobuf.FieldMask": {"type": "string"},
}

RULES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "min_len": lambda value: {"minLength": value},
    "max_len": lambda value: {"maxLength": value},
    "pattern": lambda value: {"pattern": value},
    "uri": lambda _: {"format": "uri"},
    "email": lambda _: {"format": "email"},
    "uuid": lambda _: {"format": "uuid"},
    "gte": lambda value: {"minimum": value},
    "lte": lambda value: {"maximum": value},
    "gt": lambda value: {"exclusiveMinimum": value},
    "lt": lambda value: {"exclusiveMaximum": value},
    "in": lambda values: {"enum": list(values)},
    "not_in": lambda values: {"not": {"enum": list(values)}},
    "min_items": lambda value: {"minItems": value},
    "max_items": lambda value: {"maxItems": value},
    "unique": lambda value: {"uniqueItems": value},
}
"""Of protovalidate, as keywords of JSON Schema."""

_CHANGEABLE = "displayName|description|price|imageUri"
_HUNDREDTHS = {"multipleOf": 10_000_000, "maximum": 990_000_000}
CEL: dict[str, dict[str, Any]] = {
    "price.currency": {"properties": {"currencyCode": {"pattern": "^[A-Z]{3}$"}}, "required": ["currencyCode"]},
    "price.range": {
        "anyOf": [
            {
                "properties": {"units": {"pattern": "^[1-9][0-9]{0,5}$"}, "nanos": _HUNDREDTHS | {"minimum": 0}},
                "required": ["units"],
            },
            {
                "properties": {"units": {"const": "0"}, "nanos": _HUNDREDTHS | {"minimum": 10_000_000}},
                "required": ["nanos"],
            },
            {"properties": {"units": {"const": "1000000"}, "nanos": {"const": 0}}, "required": ["units"]},
        ]
    },
    "update_mask.paths": {"pattern": rf"^(\*|(({_CHANGEABLE})(,({_CHANGEABLE}))*)?)$"},
}
"""What the expressions say that are more than one regular expression, by their id."""

CODES = {
    "INVALID_ARGUMENT": "400",
    "FAILED_PRECONDITION": "400",
    "OUT_OF_RANGE": "400",
    "UNAUTHENTICATED": "401",
    "PERMISSION_DENIED": "403",
    "NOT_FOUND": "404",
    "ALREADY_EXISTS": "409",
    "ABORTED": "409",
    "RESOURCE_EXHAUSTED": "429",
    "INTERNAL": "500",
    "UNIMPLEMENTED": "501",
    "UNAVAILABLE": "503",
    "DEADLINE_EXCEEDED": "504",
}
"""HTTP statuses of google.rpc.Code, as Envoy's transcoder has them."""

REFUSALS = {
    "400": "INVALID_ARGUMENT/INVALID_REQUEST.",
    "401": "The token is missing or bad.",
    "403": "The token is for another audience, or without the role.",
    "413": "The body is larger than 1 MiB.",
    "431": "The headers are larger than 32 KiB, or more than 200.",
    "429": "Too many calls of one person, or from one address.",
    "500": "A fault of the shop; the message names the trace.",
    "503": "An outage: try again.",
    "504": "Not done in time.",
}
"""What any rpc may be answered with, by HTTP status."""

STATUS: dict[str, Any] = {
    "type": "object",
    "description": "google.rpc.Status: every refusal. Envoy's own have no details.",
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "google.rpc.Code."},
        "message": {"type": "string", "description": "For people."},
        "details": {
            "type": "array",
            "description": "For programs: one ErrorInfo with the reason, and what helps beside it.",
            "items": {"anyOf": []},
        },
    },
    "required": ["code", "message", "details"],
}
