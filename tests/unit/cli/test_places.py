"""Where a shop is, from both who may tell it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import main
from services.cli.local.state import StateFolder
from services.cli.places import Places, every, keys_url, places_of
from services.cli.settings import PORTS
from services.failure import Failure

ELSEWHERE = {
    "SHOPMESH_EDGE": "envoy:8080",
    "SHOPMESH_ETCD": "etcd:2379",
    "SHOPMESH_POSTGRES": "postgres:5432",
    "SHOPMESH_NATS_URL": "nats://audit@nats:4222",
    "SHOPMESH_ISSUER": "https://identity.example/realms/shop",
    "SHOPMESH_TOKEN_URL": "http://keycloak:8080/realms/shop/protocol/openid-connect/token",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    """Of a shop that runs, as its supervisor keeps it."""
    folder = StateFolder(tmp_path)
    envoy = {"name": "envoy", "state": "ready", "pid": None, "address": "", "started": 0}
    with folder.hold():
        folder.write({"pid": os.getpid(), "ports": PORTS, "issuer": "http://localhost:8180/realms/shop",
                      "parts": [envoy]})  # fmt: skip
        yield folder


def test_a_state_folder_tells_where_all_of_its_shop_is(folder: StateFolder) -> None:
    places = places_of(folder.path)

    assert (places.edge, places.mesh, places.etcd) == ("127.0.0.1:8080", "127.0.0.1:10000", "127.0.0.1:2379")
    assert (places.mail, places.telemetry) == ("127.0.0.1:8025", "127.0.0.1:8026")
    assert (places.nats_url, places.otlp_endpoint) == ("nats://127.0.0.1:4222", "http://127.0.0.1:4317")
    assert places.token_url == f"{places.issuer}/protocol/openid-connect/token"
    assert places.database("order") == "postgresql://audit@127.0.0.1:5433/order"
    assert places.envoys() == ["127.0.0.1:9901"]
    assert (places.password("audit", "nats"), places.folder) == (None, folder)


def test_the_environment_tells_of_a_shop_elsewhere_and_goes_before_a_folder(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)

    places = places_of(folder.path)

    assert (places.edge, places.etcd, places.nats_url) == ("envoy:8080", "etcd:2379", "nats://audit@nats:4222")
    assert (places.issuer, places.token_url) == (ELSEWHERE["SHOPMESH_ISSUER"], ELSEWHERE["SHOPMESH_TOKEN_URL"])
    assert (places.otlp_endpoint, places.envoys(), places.folder) == ("", [], None)


def test_pages_may_have_other_addresses_for_people() -> None:
    at = {"SHOPMESH_MAIL": "mailpit:8025", "SHOPMESH_TELEMETRY": "telemetry:8026"}
    pages = {"SHOPMESH_MAIL_PAGE": "http://localhost:8025", "SHOPMESH_TELEMETRY_PAGE": "https://shop.example/seen"}

    inside, outside = Places.of_environment(at), Places.of_environment({**at, **pages})

    assert (inside.mail_page, inside.telemetry_page) == ("http://mailpit:8025", "http://telemetry:8026")
    assert (outside.mail_page, outside.telemetry_page) == ("http://localhost:8025", "https://shop.example/seen")


def test_passwords_are_read_from_the_folder_of_the_role(tmp_path: Path) -> None:
    (tmp_path / "order").mkdir()
    (tmp_path / "order" / "database-password").write_text("a/b@c:d\n")
    places = Places.of_environment({**ELSEWHERE, "SHOPMESH_SECRETS": str(tmp_path)})

    assert places.database("order", role="order") == "postgresql://order:a%2Fb%40c%3Ad@postgres:5432/order"
    with pytest.raises(Failure, match=r"SHOPMESH_SECRETS=.*/audit/nats-password cannot be read: No such file"):
        places.password("audit", "nats")


def test_what_nobody_has_told_is_named_by_who_needs_it(folder: StateFolder) -> None:
    with pytest.raises(Failure, match="SHOPMESH_TELEMETRY is to say more of it"):
        _ = Places.of_environment(ELSEWHERE).telemetry

    folder.write({**json.loads((folder.path / "stack.json").read_text()), "ports": {"edge": 1}})
    with pytest.raises(Failure, match="by a version without telemetry: start it again"):
        _ = places_of(folder.path).telemetry


def test_a_name_means_every_host_that_has_it() -> None:
    assert every("127.0.0.1:9901") == ["127.0.0.1:9901"]
    assert every("[::1]:9901") == ["[::1]:9901"]
    assert every("nowhere.invalid:9901") == ["nowhere.invalid:9901"]


def elsewhere(*words: str) -> Result:
    return CliRunner().invoke(main, words, env=ELSEWHERE)


@pytest.mark.parametrize(
    ("words", "who"),
    [
        ("up", "docker compose up -d"),
        ("down", "docker compose down"),
        ("scale order 2", "docker compose up -d --scale order=2"),
        ("drain order-2", "docker stop"),
        ("restart order", "kubectl rollout restart"),
    ],
)
def test_what_only_the_launcher_can_do_says_who_does_it_elsewhere(words: str, who: str) -> None:
    done = elsewhere(*words.split())

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the shop of SHOPMESH_EDGE was not started by this command: ")
    assert who in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_shop_is_named_by_its_edge_and_its_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOPMESH_ISSUER", "SHOPMESH_TOKEN_URL", "SHOPMESH_ETCD", "SHOPMESH_SECRETS"):
        monkeypatch.delenv(name, raising=False)

    places = Places.of_target("shop.example:8080", "https://id.example/realms/shop")

    assert places.token_url == "https://id.example/realms/shop/protocol/openid-connect/token"
    assert keys_url(places.token_url) == "https://id.example/realms/shop/protocol/openid-connect/certs"
    with pytest.raises(Failure, match=r"--target must be host:port, not 'shop\.example'"):
        Places.of_target("shop.example", None)
