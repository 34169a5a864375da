"""What the environment says, and how it is told that it cannot mean anything."""

import re
from pathlib import Path

import pytest

from services.chassis.settings import PasswordUnreadable, SettingInvalid, Settings, target_of


def test_an_empty_environment_is_a_local_stack() -> None:
    settings = Settings.read("order", {})

    assert re.fullmatch("order-[0-9a-f]{8}", settings.instance)
    assert settings.database_url == "postgresql://order@127.0.0.1:5433/order"
    assert settings.jwks_url == "http://localhost:8180/realms/shop/protocol/openid-connect/certs"
    assert (settings.client_id, settings.client_secret_file, settings.etcd) == ("order", None, ("127.0.0.1:2379",))


def test_what_is_set_counts_and_what_is_set_to_nothing_does_not() -> None:
    settings = Settings.read(
        "order",
        {
            "SHOPMESH_INSTANCE": "order-2",
            "SHOPMESH_ETCD": "10.0.0.1:2379, 10.0.0.2:2379",
            "SHOPMESH_ISSUER": "https://id.example/realms/shop",
            "SHOPMESH_TOKEN_URL": "http://keycloak:8080/token",
            "SHOPMESH_CLIENT_SECRET_FILE": "/run/secrets/order",
            "SHOPMESH_NATS_URL": "",
        },
    )

    assert settings.instance == "order-2"
    assert settings.etcd == ("10.0.0.1:2379", "10.0.0.2:2379")
    assert settings.jwks_url == "https://id.example/realms/shop/protocol/openid-connect/certs"
    assert settings.token_url == "http://keycloak:8080/token"
    assert settings.client_secret_file == Path("/run/secrets/order")
    assert settings.nats_url == "nats://127.0.0.1:4222"


@pytest.mark.parametrize(
    ("listen", "advertise", "registered"),
    [
        ("127.0.0.1:0", "", "127.0.0.1:5000"),
        ("0.0.0.0:5000", "10.1.2.3", "10.1.2.3:5000"),
        ("0.0.0.0:5000", "10.1.2.3:6000", "10.1.2.3:6000"),
        ("[::]:5000", "fd00::1", "[fd00::1]:5000"),
        ("[::]:5000", "[fd00::1]", "[fd00::1]:5000"),
        ("[::]:5000", "[fd00::1]:6000", "[fd00::1]:6000"),
        ("[::1]:0", "", "[::1]:5000"),
        # Of this machine, the address that leads to the mesh.
        ("0.0.0.0:5000", "", "127.0.0.1:5000"),
    ],
)
def test_an_address_is_registered_that_others_can_use(listen: str, advertise: str, registered: str) -> None:
    nowhere = {"SHOPMESH_ETCD": "etcd.invalid:2379"}
    settings = Settings.read("order", {"SHOPMESH_LISTEN": listen, "SHOPMESH_ADVERTISE": advertise, **nowhere})

    assert settings.advertised(5000) == registered


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOPMESH_LISTEN", "127.0.0.1"),
        ("SHOPMESH_LISTEN", ":80"),
        ("SHOPMESH_LISTEN", "127.0.0.1:http"),
        ("SHOPMESH_LISTEN", "127.0.0.1:70000"),
        ("SHOPMESH_MESH", "envoy"),
        ("SHOPMESH_ETCD", "etcd-0.etcd:2379,etcd-1.etcd:2379"),
        ("SHOPMESH_ETCD", "etcd"),
        ("SHOPMESH_ADVERTISE", "order.example"),
        ("SHOPMESH_ADVERTISE", "order.example:5000"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        Settings.read("order", {name: value})


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("http://127.0.0.1:4317", ("127.0.0.1:4317", False)),
        ("https://collector:4317", ("collector:4317", True)),
        ("collector:4317", ("collector:4317", False)),
        ("[::1]:4317", ("[::1]:4317", False)),
    ],
)
def test_where_telemetry_is_sent_is_encrypted_only_where_the_endpoint_says_so(
    endpoint: str, target: tuple[str, bool]
) -> None:
    assert target_of(endpoint) == target


@pytest.mark.parametrize(
    ("content", "password"), [(b"secret", "secret"), (b"secret\n", "secret"), (b" two words \r\n", " two words ")]
)
def test_a_password_is_all_of_its_file_but_the_newline(content: bytes, password: str, tmp_path: Path) -> None:
    (path := tmp_path / "password").write_bytes(content)
    settings = Settings.read("order", {"SHOPMESH_NATS_PASSWORD_FILE": str(path)})

    assert settings.database_password_file is None
    assert settings.nats_password_file is not None
    assert settings.nats_password_file.read() == password


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: No such file or directory"), (b"\n", "is empty"), (b"\xff", "is no UTF-8 text")],
)
def test_a_password_that_cannot_be_had_is_one_line_that_names_the_variable(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    settings = Settings.read("order", {"SHOPMESH_DATABASE_PASSWORD_FILE": str(path)})

    assert settings.database_password_file is not None
    with pytest.raises(PasswordUnreadable) as error:
        settings.database_password_file.read()
    assert str(error.value) == f"SHOPMESH_DATABASE_PASSWORD_FILE={path} {says}"
