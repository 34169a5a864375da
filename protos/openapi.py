"""The REST door as OpenAPI 3.1, from the descriptors: every google.api.http route, and how it is refused."""

import json
import re
from collections.abc import Iterator
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from mesh.v1 import auth_pb2
from openapi_schemas import Json, Schemas, comments
from openapi_words import CODES, INFO, REFUSALS

_VARIABLE = re.compile(r"\{([^=}]+)(?:=([^}]+))?\}")
_REASON = re.compile(r"([A-Z_]+)/([A-Z_]+)")


def openapi(image: bytes, version: str) -> bytes:
    """The document; `image` is a FileDescriptorSet with source info."""
    files = FileDescriptorSet.FromString(image).file
    schemas = Schemas(files)
    paths: dict[str, Json] = {}
    tags: list[Json] = []
    for file in files:
        said = comments(file)
        for number, service in enumerate(file.service):
            routed = False
            for at, method in enumerate(service.method):
                for verb, path, operation in _operations(schemas, method, said.get((6, number, 2, at), "")):
                    paths.setdefault(path, {})[verb] = {"tags": [service.name]} | operation
                    routed = True
            if routed:
                tags.append({"name": service.name, "description": said.get((6, number), "")})
    components = {
        "schemas": dict(sorted((schemas.written | {"Status": schemas.status()}).items())),
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    }
    document = {
        "openapi": "3.1.0",
        "info": INFO | {"version": version},
        "tags": tags,
        "paths": paths,
        "components": components,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _operations(schemas: Schemas, method: MethodDescriptorProto, comment: str) -> Iterator[tuple[str, str, Json]]:
    """Verb, path and operation of each route of an rpc."""
    rule: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]  # type: ignore[index]  # no types
    roles = method.options.Extensions[auth_pb2.rule].roles
    for at, one in enumerate((rule, *rule.additional_bindings)):
        if (verb := one.WhichOneof("pattern")) is None:
            continue
        template: str = getattr(one, verb)
        path, parameters = _path(schemas, method.input_type, template)
        request = schemas.object(method.input_type, without=[field for field, _ in _VARIABLE.findall(template)])
        if one.body not in {"", "*"}:
            raise NotImplementedError(f"{method.name}: a body that is one field")
        answer = schemas.ref(method.output_type)
        operation: Json = {
            "operationId": method.name + (str(at + 1) if at else ""),
            "description": comment + (f" For the roles: {', '.join(roles)}." if roles else ""),
            "security": [{"token": []}] if roles else [{}, {"token": []}],
            "parameters": parameters if one.body else [*parameters, *_query(request)],
            "responses": _responses(
                {"type": "array", "items": answer} if method.server_streaming else answer,
                comment,
                leave_out=() if one.body else ("413",),
            ),
        }
        if one.body:
            operation["requestBody"] = {"required": True, "content": _json(request)}
        yield verb, path, operation


def _path(schemas: Schemas, request: str, template: str) -> tuple[str, list[Json]]:
    """`/v1/{name=products/*}` is /v1/products/{product}: a parameter is a name without what is fixed in it."""
    parameters: list[Json] = []

    def written(variable: re.Match[str]) -> str:
        before, star, after = (variable[2] or "*").partition("*")
        if not star or "*" in after:
            raise NotImplementedError(f"{template}: a name of one id")
        name = before.removesuffix("/").rpartition("/")[2].removesuffix("s")
        id = schemas.name_pattern(request, variable[1]).removeprefix("^" + before).removesuffix(after + "$")
        schema = {"type": "string", "pattern": f"^{id}$"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
        return f"{before}{{{name}}}{after}"

    return _VARIABLE.sub(written, template), parameters


def _query(request: Json) -> Iterator[Json]:
    for name, field in request["properties"].items():
        schema = {key: value for key, value in field.items() if key != "description"}
        required = name in request.get("required", ())
        yield {"name": name, "in": "query", "required": required, "description": field["description"], "schema": schema}


def _responses(answer: Json, comment: str, leave_out: tuple[str, ...]) -> Json:
    """The answer, what the rpc's comment says that it is refused with, and what every rpc may be refused with."""
    said = {status: text for status, text in REFUSALS.items() if status not in leave_out}
    for code, reason in _REASON.findall(comment):
        said[CODES[code]] = f"{said.get(CODES[code], '')} {code}/{reason}.".strip()
    refusals: dict[str, Any] = {
        status: {"description": text, "content": _json({"$ref": "#/components/schemas/Status"})}
        for status, text in sorted(said.items())
    }
    refusals["429"]["headers"] = {"retry-after": {"schema": {"type": "integer"}, "description": "In seconds."}}
    return {"200": {"description": "Done.", "content": _json(answer)}} | refusals


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
