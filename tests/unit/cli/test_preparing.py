import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.containers.preparing import prepare
from services.cli.settings import SERVICES
from services.failure import Failure


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOPMESH_DEMO", "SHOPMESH_PUBLIC", "SHOPMESH_ADS", "SHOPMESH_INSTANCE"):
        monkeypatch.delenv(name, raising=False)


def made(folder: Path, *words: str) -> dict[str, str]:
    """What is in the files afterwards, by their names."""
    CliRunner().invoke(prepare, [*(words or ("files",)), "--into", str(folder)], catch_exceptions=False)
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_each_reader_has_a_folder_with_its_own_secrets_alone(tmp_path: Path) -> None:
    files = made(tmp_path)

    secrets = {name: text for name, text in files.items() if Path(name).name in _SECRETS}
    assert sorted(secrets) == sorted(
        [f"{service}/{name}" for service in SERVICES for name in ("client-secret", "database-password")]
        + [f"{user}/nats-password" for user in ("order", "notification", "audit")]
        + ["audit/database-password", "keycloak/database-password", "postgres/superuser-password"]
    )
    assert len({*secrets.values()}) == len(secrets)
    assert min(map(len, secrets.values())) >= 43  # 256 bits in base64


_SECRETS = {"client-secret", "database-password", "nats-password", "superuser-password"}


def test_a_second_run_keeps_the_secrets_and_makes_what_is_gone(tmp_path: Path) -> None:
    first = made(tmp_path)
    (tmp_path / "order" / "client-secret").unlink()

    second = made(tmp_path)

    changed = {name for name, text in second.items() if first[name] != text}
    assert changed == {"order/client-secret", "keycloak/shop-realm.json"}


def test_realm_broker_and_database_of_keycloak_have_the_secrets_of_the_files(tmp_path: Path) -> None:
    files = made(tmp_path)

    realm = json.loads(files["keycloak/shop-realm.json"])
    secrets = {client["clientId"]: client["secret"] for client in realm["clients"] if "secret" in client}
    assert secrets == {service: files[f"{service}/client-secret"] for service in SERVICES}
    for user in ("order", "notification", "audit"):
        assert f'{{user: {user}, password: "{files[f"{user}/nats-password"]}"}}' in files["nats/users.conf"]
    assert files["keycloak/keycloak.conf"] == f"db-password={files['keycloak/database-password']}\n"


def test_anybody_who_has_the_folder_may_read_it_and_nobody_write(tmp_path: Path) -> None:
    made(tmp_path)

    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.rglob("*") if file.is_file()} == {"0o444"}


def test_without_a_demo_nobody_gets_a_token_by_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_DEMO", "no")

    realm = json.loads(made(tmp_path)["keycloak/shop-realm.json"])

    assert {user["username"] for user in realm["users"]} == {f"service-account-{service}" for service in SERVICES}
    assert not [client["clientId"] for client in realm["clients"] if client.get("directAccessGrantsEnabled")]
    assert "storefront" in [client["clientId"] for client in realm["clients"]]


def test_a_shop_that_others_reach_says_whether_it_wants_demo_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPMESH_PUBLIC", "0.0.0.0")
    with pytest.raises(Failure, match=r"SHOPMESH_PUBLIC=0\.0\.0\.0 lets others in.*set SHOPMESH_DEMO=no"):
        made(tmp_path)
    assert not [*tmp_path.iterdir()]

    monkeypatch.setenv("SHOPMESH_DEMO", "yes")
    assert '"ann"' in made(tmp_path)["keycloak/shop-realm.json"]

    monkeypatch.setenv("SHOPMESH_DEMO", "perhaps")
    with pytest.raises(Failure, match="SHOPMESH_DEMO is yes or no, not 'perhaps'"):
        made(tmp_path)


def test_envoy_is_led_to_the_control_plane_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_ADS", "ads.mesh:18001")
    monkeypatch.setenv("SHOPMESH_INSTANCE", "envoy-7")

    (text,) = made(tmp_path, "bootstrap").values()

    assert 'id: "envoy-7"' in text
    assert 'address: "ads.mesh", port_value: 18001' in text
    monkeypatch.setenv("SHOPMESH_ADS", "ads.mesh")
    with pytest.raises(Failure, match="SHOPMESH_ADS must be host:port"):
        made(tmp_path, "bootstrap")
