"""What is wrong with a document according to the schemas of those who read it: Compose, and Kubernetes."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

type Document = Mapping[str, Any]

KUBERNETES = "1.37.0"


class NoSchema(Exception):
    """Nobody has told what such a document may hold: a CustomResourceDefinition that is not Kubernetes' own."""


def of_compose(document: Document) -> list[str]:
    """Faults of a compose file, as `where: what`."""
    folder = files("check_jsonschema").joinpath("builtin_schemas", "vendor")
    return _told(
        Draft202012Validator(json.loads(folder.joinpath("compose-spec.json").read_text())).iter_errors(document)
    )


def of_kubernetes(resource: Document, *, partly: bool = False) -> list[str]:
    """Faults of a resource, unknown fields included; of a patch, which is there `partly`, nothing is missing.

    Raises NoSchema.
    """
    version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", resource["apiVersion"])
    try:
        schema = _schema(f"{resource['kind'].lower()}-{version}.json")
    except FileNotFoundError:
        raise NoSchema(f"{resource['apiVersion']} {resource['kind']}") from None
    errors = Draft202012Validator(schema, registry=_registry()).iter_errors(resource)
    return _told(error for error in errors if not (partly and error.validator == "required"))


def _told(errors: Iterator[ValidationError]) -> list[str]:
    return [f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message[:300]}" for error in errors]


@cache
def _registry() -> "Registry[Any]":
    return Resource.from_contents(_schema("_definitions.json")) @ Registry()


@cache
def _schema(name: str) -> Any:  # noqa: ANN401  a JSON document
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema", f"v{KUBERNETES}-local-strict")
    return json.loads(folder.joinpath(name).read_text())
