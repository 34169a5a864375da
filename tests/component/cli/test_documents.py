"""`shopmesh config` and `shopmesh policy`, on a real etcd."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from mesh.v1 import registry_pb2

from services.chassis.etcd import Etcd
from services.cli.__main__ import main
from services.cli.documents.applied import Told, look
from services.cli.documents.effect import wait
from services.cli.documents.revisions import KEPT, Held, Kind, read, write
from services.cli.settings import SERVICES
from services.failure import Failure
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.ports import free_port
from tests.support.waiting import DEADLINE_S


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


class Shopmesh:
    """The command, with an etcd that nothing else uses."""

    def __init__(self, etcd: EtcdServer) -> None:
        self._etcd = etcd

    def says(self, *words: str, fails: bool = False, **environment: str) -> str:
        done = CliRunner().invoke(main, words, env={"SHOPMESH_ETCD": self._etcd.endpoint, **environment})
        assert done.exit_code == (1 if fails else 0), done.output
        return done.output

    def etcd[T](self, ask: Callable[[Etcd], Awaitable[T]]) -> T:
        async def asking() -> T:
            etcd = Etcd(self._etcd.endpoint)
            try:
                return await ask(etcd)
            finally:
                await etcd.close()

        return asyncio.run(asking())

    def put(self, key: str, value: str) -> int:
        """Past the command."""
        return self.etcd(lambda etcd: etcd.put(key, value.encode()))

    def there_is(self) -> dict[str, str]:
        found = self.etcd(lambda etcd: etcd.get_prefix("/shop/"))
        return {key: entry.value.decode() for key, entry in found.entries.items()}


@pytest.fixture
def shopmesh(server: EtcdServer) -> Iterator[Shopmesh]:
    shopmesh = Shopmesh(server)
    yield shopmesh
    for key in shopmesh.there_is():
        shopmesh.etcd(lambda etcd: etcd.delete(key))  # noqa: B023  called at once


def field(shopmesh: Shopmesh, *words: str) -> str:
    return shopmesh.says(*words).strip()


@pytest.mark.parametrize(
    ("kind", "path", "written", "read"),
    [
        ("config", "hold_ttl", "10m", "600s"),
        ("config", "hold_ttl", "1m30s", "90s"),
        ("config", "reserve_timeout", "250ms", "0.250s"),
        ("config", "process.log_level", "debug", "LOG_LEVEL_DEBUG"),
        ("config", "process.log_level", "LOG_LEVEL_ERROR", "LOG_LEVEL_ERROR"),
        ("config", "process.sampling_percent", "12.5", "12.5"),
        ("config", "process", '{"sampling_percent": 3, "log_level": "LOG_LEVEL_DEBUG", "default_deadline": "2s"}',
         '{"log_level": "LOG_LEVEL_DEBUG", "sampling_percent": 3.0, "default_deadline": "2s"}'),
        ("policy", "rate_limit.user.calls", "0", "0"),
        ("policy", "load_balancing", "round-robin", "LOAD_BALANCING_ROUND_ROBIN"),
        ("policy", "rpcs.PlaceOrder.timeout", "2s", "2s"),
    ],
)  # fmt: skip
def test_a_field_is_set_as_a_person_writes_it(
    shopmesh: Shopmesh, kind: str, path: str, written: str, read: str
) -> None:
    shopmesh.says(kind, "set", "--no-wait", "order", f"{path}={written}")

    assert field(shopmesh, kind, "get", "order", path) == read


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["config", "set", "order", "hold_ttl=1s"], "hold_ttl: must be greater than or equal to 2s"),
        (["config", "set", "order", "hold_ttl=soon"], "hold_ttl: takes a duration such as 1.5s or 10m, not 'soon'"),
        (["config", "set", "order", "process=3"], "process: takes an object in JSON, not '3'"),
        (["config", "set", "order", "process.sampling_percent=all"], "process.sampling_percent: takes a number"),
        (["config", "set", "order", "hold_tll=5m"], "hold_tll: no such field (did you mean hold_ttl?)"),
        (["config", "set", "order", "process.log_level=loud"], "process.log_level: takes one of LOG_LEVEL_DEBUG, "),
        (["config", "set", "order", "process.log_level.x=1"], "process.log_level has no fields"),
        (["config", "set", "order", "default_page_size=99", "max_page_size=50"], "must not exceed max_page_size"),
        (["config", "set", "oder", "hold_ttl=5m"], "did you mean order?"),
        (["config", "set", "--all", "hold_ttl=5m"], "hold_ttl: no such field"),
        (["config", "unset", "order", "hold"], "hold: no such field"),
        (["config", "get", "order", "hold"], "did you mean hold_ttl?"),
        (["config", "set", "nobody", "hold_ttl=5m"], "there is product, order, inventory, notification"),
        (["policy", "set", "order", "retries=7"], "retries: takes an object in JSON"),
        (["policy", "set", "order", "retries.edge=1.5"], "retries.edge: takes a whole number, not '1.5'"),
        (["policy", "set", "order", "faults=none"], "faults: takes a list in JSON"),
        (["config", "rollback", "order"], "no earlier config"),
        (["config", "rollback", "order", "99"], "no config of revision 99"),
    ],
)
def test_what_is_no_good_is_refused_by_name_and_nothing_is_written(
    shopmesh: Shopmesh, words: list[str], told: str
) -> None:
    assert told in shopmesh.says(*words, fails=True)
    assert shopmesh.there_is() == {}


def test_what_holds_is_shown_with_where_it_comes_from(shopmesh: Shopmesh) -> None:
    assert "no document, the defaults hold" in shopmesh.says("config", "get", "order")
    shopmesh.says("config", "set", "order", "hold_ttl=5m")

    lines = [" ".join(line.split()) for line in shopmesh.says("config", "get", "order").splitlines()]
    told = json.loads(shopmesh.says("config", "get", "order", "--json"))

    assert "hold_ttl 300s etcd (seed: 600s)" in lines
    assert "reserve_timeout 1s seed" in lines
    assert told["etcd"] == {"hold_ttl": "300s"}
    assert told["effective"]["hold_ttl"] == "300s"


def test_all_services_change_in_one_transaction(shopmesh: Shopmesh) -> None:
    said = shopmesh.says("config", "set", "--all", "--no-wait", "process.log_level=warning")

    assert len({line.rpartition("revision")[2] for line in said.splitlines()}) == 1
    assert len([key for key in shopmesh.there_is() if key.startswith("/shop/config/")]) == 4
    shopmesh.says("config", "unset", "--all")
    assert not [key for key in shopmesh.there_is() if key.startswith("/shop/config/")]


def test_history_tells_each_change_also_those_written_past_it(shopmesh: Shopmesh) -> None:
    shopmesh.says("config", "set", "order", "hold_ttl=5m")
    shopmesh.put("/shop/config/order", '{"hold_ttl": "1s"}')
    shopmesh.says("config", "set", "order", "hold_ttl=7m")
    shopmesh.says("config", "unset", "order", "hold_ttl")

    told = json.loads(shopmesh.says("config", "history", "order", "--json"))

    assert [row["action"] for row in told] == [
        "", "set hold_ttl=5m", "written past shopmesh", "set hold_ttl=7m", "unset hold_ttl"
    ]  # fmt: skip
    assert [row["document"] for row in told] == [
        None, '{"hold_ttl": "300s"}', '{"hold_ttl": "1s"}', '{"hold_ttl": "420s"}', None
    ]  # fmt: skip
    assert told[1]["author"]
    assert "hold_ttl 600s -> 300s" in told[1]["changes"]
    assert "hold_ttl: must be" in told[2]["changes"]


def test_a_rollback_is_one_command_and_can_be_rolled_back(shopmesh: Shopmesh) -> None:
    for minutes in (5, 6, 7):
        shopmesh.says("config", "set", "order", f"hold_ttl={minutes}m")
    first = json.loads(shopmesh.says("config", "history", "order", "--json"))[1]["revision"]

    def rolled_back(*words: str) -> str:
        shopmesh.says("config", "rollback", "order", *words)
        return field(shopmesh, "config", "get", "order", "hold_ttl")

    assert [rolled_back(), rolled_back(), rolled_back(str(first))] == ["360s", "420s", "300s"]
    shopmesh.put("/shop/config/order", "{broken")
    assert "edit order` or `rollback order" in shopmesh.says("config", "get", "order", fails=True)
    assert rolled_back() == "300s"


def test_differences_are_shown_field_by_field(shopmesh: Shopmesh) -> None:
    shopmesh.says("config", "set", "order", "hold_ttl=5m")
    since = json.loads(shopmesh.says("config", "get", "order", "--json"))["revision"]
    shopmesh.says("config", "set", "order", "default_page_size=7")

    assert shopmesh.says("config", "diff", "order").splitlines()[1:] == [
        "- default_page_size: 20", "+ default_page_size: 7", "- hold_ttl: 600s", "+ hold_ttl: 300s"
    ]  # fmt: skip
    assert shopmesh.says("config", "diff", "order", str(since)).splitlines()[1:] == [
        "- default_page_size: 20", "+ default_page_size: 7"
    ]  # fmt: skip
    assert shopmesh.says("config", "diff", "product") == ""


def test_history_keeps_the_last_hundred(shopmesh: Shopmesh) -> None:
    async def many(etcd: Etcd) -> None:
        for at in range(KEPT + 5):
            held = (await read(etcd, Kind("config"), ["order"]))["order"]
            assert await write(etcd, Kind("config"), {"order": (held, f'{{"hold_ttl": "{at + 2}s"}}')}, f"set {at}")

    shopmesh.etcd(many)
    told = json.loads(shopmesh.says("config", "history", "order", "--json"))

    assert len([key for key in shopmesh.there_is() if key.startswith("/shop/history/config/order/")]) == KEPT
    assert (told[-1]["action"], told[1]["action"]) == ("set 104", "set 5")


def editor(folder: Path, script: str) -> str:
    """A program that reads the text of the n-th time it is opened, and saves what `script` makes of it."""
    file = folder / "editor.py"
    file.write_text(
        "import sys, pathlib\n"
        "file, opened = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).with_suffix('.opened')\n"
        "with opened.open('a') as times: times.write(file.read_text() + '\\n=====\\n')\n"
        "text, times = file.read_text(), opened.read_text().count('\\n=====\\n')\n"
        f"{script}\n"
        "file.write_text(text)\n"
    )
    return f"{sys.executable} {file}"


def opened(folder: Path) -> list[str]:
    return (folder / "editor.opened").read_text().split("\n=====\n")[:-1]


def test_an_edited_document_is_written_and_the_defaults_stand_beside_it(shopmesh: Shopmesh, tmp_path: Path) -> None:
    program = editor(tmp_path, "text = text.replace('{}', '{\"hold_ttl\": \"300s\"}')")

    assert "hold_ttl 600s -> 300s" in shopmesh.says("config", "edit", "order", VISUAL=program)
    assert '//     "hold_ttl": "600s",' in opened(tmp_path)[0]
    assert shopmesh.there_is()["/shop/config/order"] == '{"hold_ttl": "300s"}'


def test_saved_as_it_was_shown_nothing_is_written(shopmesh: Shopmesh, tmp_path: Path) -> None:
    assert "nothing changed" in shopmesh.says("config", "edit", "order", VISUAL=editor(tmp_path, ""))
    assert shopmesh.there_is() == {}


def test_what_is_refused_is_shown_with_the_reason_and_can_be_mended(shopmesh: Shopmesh, tmp_path: Path) -> None:
    mends = "text = text.replace('{}', '{\"hold_ttl\": \"1s\"}') if times == 1 else text.replace('1s\"}', '9s\"}')"

    shopmesh.says("config", "edit", "order", VISUAL=editor(tmp_path, mends))

    assert "// REFUSED: hold_ttl: must be" in opened(tmp_path)[1]
    assert field(shopmesh, "config", "get", "order", "hold_ttl") == "9s"


def test_who_gives_up_finds_the_text_again(shopmesh: Shopmesh, tmp_path: Path) -> None:
    once = "text = text.replace('{}', '{\"hold_ttl\": \"1s\"}') if times == 1 else text"

    said = shopmesh.says("config", "edit", "order", VISUAL=editor(tmp_path, once), fails=True)

    kept = Path(said.strip().rpartition(" ")[2])
    assert '"hold_ttl": "1s"' in kept.read_text()
    kept.unlink()
    assert shopmesh.there_is() == {}


def test_a_change_of_somebody_else_meanwhile_is_told_and_nothing_is_lost(
    shopmesh: Shopmesh, server: EtcdServer, tmp_path: Path
) -> None:
    meanwhile = (
        "import subprocess\n"
        "if times == 1:\n"
        f"    subprocess.run([sys.executable, '-m', 'services.cli', 'config', 'set', 'order', 'default_page_size=7'],\n"
        f"                   env={{'SHOPMESH_ETCD': '{server.endpoint}', 'PATH': '/usr/bin:/bin'}}, check=True)\n"
        "    text = text.replace('{}', '{\"hold_ttl\": \"300s\"}')\n"
        "else:\n"
        '    text = text.replace(\'"hold_ttl": "300s"\', \'"hold_ttl": "300s", "default_page_size": 7\')\n'
    )

    shopmesh.says("config", "edit", "order", VISUAL=editor(tmp_path, meanwhile))

    assert "// CHANGED MEANWHILE" in opened(tmp_path)[1]
    assert '//   "default_page_size": 7' in opened(tmp_path)[1]
    assert json.loads(shopmesh.there_is()["/shop/config/order"]) == {"hold_ttl": "300s", "default_page_size": 7}


def tell(shopmesh: Shopmesh, process: str, **documents: registry_pb2.AppliedDocument) -> None:
    status = registry_pb2.Status(documents={key.replace("_", "/"): value for key, value in documents.items()})
    shopmesh.put(f"/shop/status/{process}", json_format.MessageToJson(status, preserving_proto_field_name=True))


def test_status_tells_who_goes_by_what_and_who_lags_refuses_or_is_silent(shopmesh: Shopmesh) -> None:
    now = shopmesh.put("/shop/config/order", '{"hold_ttl": "300s"}')
    tell(shopmesh, "order/order-1", config_order=registry_pb2.AppliedDocument(revision=now))
    assert shopmesh.says("config", "status").splitlines()[1].split() == [
        "order",
        str(now),
        "order-1",
        str(now),
        "applied",
    ]

    refusal = registry_pb2.DocumentRefusal(revision=now, reason="hold_ttl: too short")
    tell(shopmesh, "order/order-2", config_order=registry_pb2.AppliedDocument(revision=1))
    tell(shopmesh, "order/order-3", config_order=registry_pb2.AppliedDocument(revision=1, refused=refusal))
    shopmesh.put("/shop/endpoints/order/order-4", "{}")
    said = shopmesh.says("config", "status", fails=True)
    stale = registry_pb2.DocumentRefusal(revision=now - 1, reason="hold_ttl: too long")
    tell(shopmesh, "order/order-5", config_order=registry_pb2.AppliedDocument(revision=1, refused=stale))
    told = json.loads(shopmesh.says("config", "status", "--json", "--wait", "0.1", fails=True))

    states = {row["process"]: row["state"] for row in told["documents"]}
    assert states == {
        "order-1": "applied",
        "order-2": "lags",
        "order-3": "refused",
        "order-4": "silent",
        "order-5": "lags",
    }
    assert "order-3 refuses the config of order: hold_ttl: too short" in said
    assert "`shopmesh config rollback order`" in said


def test_a_change_is_done_when_all_instances_go_by_it_or_it_is_told_who_does_not(shopmesh: Shopmesh) -> None:
    assert "no instance of order is registered" in shopmesh.says("config", "set", "order", "hold_ttl=4m")
    now = shopmesh.put("/shop/config/order", '{"hold_ttl": "300s"}')
    for name in ("order-1", "order-2"):
        tell(shopmesh, f"order/{name}", config_order=registry_pb2.AppliedDocument(revision=now))

    def waited() -> str:
        return shopmesh.etcd(lambda etcd: wait(etcd, Kind("config"), {"order": Held(None, 0)}, [], within_s=0.2))

    assert "in effect at all 2 instances after " in waited()

    tell(shopmesh, "order/order-2", config_order=registry_pb2.AppliedDocument(revision=now - 1))
    shopmesh.put("/shop/endpoints/order/order-3", "{}")
    with pytest.raises(Failure) as late:
        waited()
    assert str(late.value).splitlines()[1:] == [
        f"  order-2 goes by revision {now - 1}", "  order-3 does not tell what it goes by: see `shopmesh status`"
    ]  # fmt: skip


def test_a_change_that_an_instance_refuses_is_not_waited_for(shopmesh: Shopmesh) -> None:
    now = shopmesh.put("/shop/config/order", '{"hold_ttl": "300s"}')
    refusal = registry_pb2.DocumentRefusal(revision=now, reason="hold_ttl: too long for me")
    tell(shopmesh, "order/order-1", config_order=registry_pb2.AppliedDocument(revision=1, refused=refusal))

    with pytest.raises(Failure, match="order-1 refuses the config of order: hold_ttl: too long for me"):
        shopmesh.etcd(lambda etcd: wait(etcd, Kind("config"), {"order": Held(None, 0)}, [], within_s=10 * DEADLINE_S))


def test_status_waits_for_who_lags(shopmesh: Shopmesh) -> None:
    now = shopmesh.put("/shop/config/order", '{"hold_ttl": "300s"}')
    key, catching_up = "/shop/status/order/order-1", b'{"documents": {"config/order": {"revision": "%d"}}}'
    shopmesh.put(key, (catching_up % 1).decode())

    async def waited(etcd: Etcd) -> Told:
        looking = asyncio.create_task(look(etcd, Kind("config"), SERVICES, wait_s=DEADLINE_S))
        await etcd.put(key, catching_up % now)
        return await looking

    assert shopmesh.etcd(waited).well


def test_each_envoy_has_to_go_by_a_policy_and_the_one_that_does_not_is_named(shopmesh: Shopmesh) -> None:
    holds = registry_pb2.AppliedDocument(revision=0)
    tell(shopmesh, "controlplane/one", policy_order=holds)
    away = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]

    with pytest.raises(Failure) as said:
        shopmesh.etcd(lambda etcd: wait(etcd, Kind("policy"), {"order": Held(None, 0)}, away, within_s=0))

    assert [line.strip() for line in str(said.value).splitlines()[1:]] == [
        f"{admin}: Envoy does not answer: see `shopmesh status`" for admin in away
    ]


def test_the_status_of_policies_is_what_control_planes_tell_with_what_envoys_refuse(shopmesh: Shopmesh) -> None:
    assert "silent" in shopmesh.says("policy", "status", fails=True)
    holds = registry_pb2.AppliedDocument(revision=0)
    names = ("product", "order", "inventory", "notification")
    tell(shopmesh, "controlplane/one", **{f"policy_{name}": holds for name in names})
    assert shopmesh.says("policy", "status").count("applied") == 4

    refusal = registry_pb2.EnvoyRefusal(node="edge", type_url="type.googleapis.com/a.Cluster", reason="bad field x")
    status = registry_pb2.Status(envoy_refusals=[refusal])
    shopmesh.put("/shop/status/controlplane/two", json_format.MessageToJson(status))
    assert "Envoy edge refuses Cluster of two" in shopmesh.says("policy", "status", fails=True)


def test_an_etcd_that_is_away_is_told_with_its_address(shopmesh: Shopmesh, tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    said = shopmesh.says("config", "get", "order", fails=True, SHOPMESH_ETCD=nowhere)
    assert f"etcd at {nowhere} does not answer" in said

    said = shopmesh.says("config", "get", "order", fails=True, SHOPMESH_ETCD="", SHOPMESH_STATE=str(tmp_path))
    assert "no shop runs in" in said
