"""Documents in etcd as operators change them: compare-and-set, with the history written in the same transaction."""

import contextlib
import getpass
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from mesh.v1 import config_pb2, policy_pb2

from services.chassis.documents import DocumentRefused, effective, parsed, rendered
from services.chassis.etcd import Entry, Etcd
from services.chassis.policies import effective_policy
from services.failure import Failure
from services.files import resource

PREFIX = "/shop/"
KEPT = 100
"""Changes of a document that history keeps."""
TRIES = 10
"""Of a change that others' changes come before."""


@dataclass(frozen=True, slots=True)
class Held:
    """A document as etcd has it."""

    text: str | None
    """None: there is none, so the defaults hold."""
    revision: int
    """Its mod_revision; where there is none, the revision of etcd as of which there was none."""

    @property
    def applied(self) -> int:
        """What a process that goes by it tells in its status."""
        return 0 if self.text is None else self.revision


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a document, and how it came to be; author is empty for what was not written by this command."""

    held: Held
    author: str = ""
    time: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """`config` or `policy`: what the documents of a service are."""

    name: str

    def message(self, service: str) -> type[Message]:
        if self.name == "policy":
            return policy_pb2.Policy
        found: type[Message] = getattr(import_module(f"shop.{service}.v1.config_pb2"), f"{service.capitalize()}Config")
        return found

    def defaults(self, service: str) -> Message:
        return parsed(resource(f"etcd/seed/{self.name}/{service}.json").read_bytes(), self.message(service))

    def fields(self, service: str, text: str | None) -> dict[str, Any]:
        """Only what the document says, in proto field names. Raises DocumentRefused."""
        return as_object(parsed((text or "").encode(), self.message(service)))

    def whole(self, service: str, text: str | None) -> dict[str, Any]:
        """What holds with such a document, checked as its readers do. Raises DocumentRefused."""
        defaults, document = self.defaults(service), (text or "").encode()
        if isinstance(defaults, policy_pb2.Policy):
            rpcs = import_module(f"shop.{service}.v1.{service}_pb2").DESCRIPTOR.services_by_name.values()
            methods = [method.name for each in rpcs for method in each.methods]
            return as_object(effective_policy(defaults, document, methods))
        return as_object(effective(defaults, document))

    def key(self, service: str) -> str:
        return f"{PREFIX}{self.name}/{service}"

    def history(self, service: str) -> str:
        return f"{PREFIX}history/{self.name}/{service}/"


def as_object(message: Message) -> dict[str, Any]:
    """Only what is set, in proto field names."""
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def written(document: Mapping[str, Any]) -> str | None:
    """As it is put into etcd; one that says nothing is none."""
    return json.dumps(document) if document else None


async def read(etcd: Etcd, kind: Kind, services: Iterable[str]) -> dict[str, Held]:
    """As of one revision."""
    snapshot = await etcd.get_prefix(f"{PREFIX}{kind.name}/")
    return {service: _held(snapshot.entries.get(kind.key(service)), snapshot.revision) for service in services}


async def write(
    etcd: Etcd, kind: Kind, changes: Mapping[str, tuple[Held, str | None]], action: str
) -> dict[str, Held] | None:
    """Puts the new documents in place of those that were read, all or none; None when one has changed meanwhile.

    They must be good: `Kind.whole` tells.
    """
    puts, deletes, unchanged = dict[str, bytes](), list[str](), dict[str, int]()
    for service, (old, new) in changes.items():
        entry = f"{kind.history(service)}{old.revision}"
        kept = _in_order((await etcd.get_prefix(kind.history(service))).entries)
        deletes += [key for key, _ in kept[: len(kept) + 1 - KEPT] if key != entry] if len(kept) >= KEPT else []
        unchanged[kind.key(service)] = old.applied
        if new is None:
            deletes.append(kind.key(service))
        else:
            puts[kind.key(service)] = new.encode()
        change = config_pb2.DocumentChange(author=_author(), action=action[:200], old=old.text, new=new)
        change.time.GetCurrentTime()
        puts[entry] = rendered(change)
    revision = await etcd.commit(puts, deletes, unchanged=unchanged)
    return {service: Held(new, revision) for service, (_, new) in changes.items()} if revision else None


async def change(
    etcd: Etcd, kind: Kind, services: Iterable[str], alter: Callable[[str, Held], str | None], action: str
) -> dict[str, tuple[Held, Held]]:
    """Alters the documents as they are now, those of all services in one transaction; before and after of each.

    When somebody else was faster it starts over with theirs. Raises DocumentRefused, and then nothing is written.
    """
    services = list(services)
    for _ in range(TRIES):
        before = await read(etcd, kind, services)
        changes = dict[str, tuple[Held, str | None]]()
        for service, held in before.items():
            new = alter(service, held)
            try:
                kind.whole(service, new)
            except DocumentRefused as refused:
                raise DocumentRefused(f"{service}: {refused}") from None
            if new != held.text:
                changes[service] = held, new
        if not changes:
            return {service: (held, held) for service, held in before.items()}
        if (after := await write(etcd, kind, changes, action)) is not None:
            return {service: (held, after.get(service, held)) for service, held in before.items()}
    raise Failure(f"others change the {kind.name} all the time: nothing is written, try again")


async def revisions(etcd: Etcd, kind: Kind, service: str) -> list[Revision]:
    """All states of a document that are known, oldest first; the last one is that of now."""
    now = (await read(etcd, kind, [service]))[service]
    entries = (await etcd.get_prefix(kind.history(service))).entries
    rows = list[Revision]()
    last: tuple[config_pb2.DocumentChange, int] | None = None
    for key, entry in _in_order(entries):
        said = json_format.Parse(entry.value, config_pb2.DocumentChange())
        rows += _next(last, Held(_text(said, "old"), _number(key)))
        last = said, entry.revision
    return rows + _next(last, now)


def _next(last: tuple[config_pb2.DocumentChange, int] | None, held: Held) -> list[Revision]:
    """What `held` came from: the last change, unless somebody wrote past this command after it."""
    if last is None:
        return [Revision(held)]
    change, revision = last
    time = change.time.ToJsonString()
    if _text(change, "new") == held.text:
        return [Revision(held, change.author, time, change.action)]
    return [Revision(Held(_text(change, "new"), revision), change.author, time, change.action), Revision(held)]


def _text(change: config_pb2.DocumentChange, field: str) -> str | None:
    return str(getattr(change, field)) if change.HasField(field) else None  # type: ignore[arg-type]  # old or new


def _held(entry: Entry | None, revision: int) -> Held:
    return Held(entry.value.decode(errors="replace"), entry.revision) if entry else Held(None, revision)


def _in_order(entries: Mapping[str, Entry]) -> list[tuple[str, Entry]]:
    """Those that were put back together after a wipe have one revision, and their keys tell."""
    return sorted(entries.items(), key=lambda item: (item[1].revision, _number(item[0])))


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])


def _author() -> str:
    name = f"user {os.getuid()}"
    with contextlib.suppress(KeyError, OSError):  # a container may know no name
        name = getpass.getuser()
    return f"{name}@{socket.gethostname()}"
