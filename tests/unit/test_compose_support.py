"""What `make test-compose` says on a machine that lacks something, and which images it looks for."""

from pathlib import Path

import pytest

from tests.compose.images.__main__ import official
from tests.compose.project import Missing, compose_command


def _program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("docker", "docker_compose", "found"),
    [
        ("exit 0", "exit 0", ["docker", "compose"]),
        ('[ "$1" = info ]', "exit 0", ["docker-compose"]),
        (None, "exit 0", "there is no Docker here"),
        ("echo no socket >&2; exit 1", "exit 0", r"does not answer \(no socket\): start it"),
        ('[ "$1" = info ]', None, "Compose is missing"),
    ],
)
def test_the_compose_of_the_machine_is_found_or_what_is_missing_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    docker: str | None,
    docker_compose: str | None,
    found: str | list[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SHOPMESH_COMPOSE", raising=False)
    for name, script in {"docker": docker, "docker-compose": docker_compose}.items():
        if script:
            _program(tmp_path, name, script)

    if isinstance(found, list):
        assert compose_command() == found
    else:
        with pytest.raises(Missing, match=found):
            compose_command()


def test_another_compose_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_COMPOSE", "podman compose")

    assert compose_command() == ["podman", "compose"]


def test_the_official_images_are_those_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "ARG PYTHON=3.13.1\nFROM python:${PYTHON}-slim AS built\nFROM scratch\nFROM built AS test\nFROM test\n"
    )
    (tmp_path / "compose.yaml").write_text(
        "services:\n"
        "  order: {image: '${SHOPMESH_IMAGE:-shopmesh:0.1.0}', build: .}\n"
        "  etcd: {image: 'registry.example/team/etcd:v3.6.16'}\n"
        "  grafana: {image: 'grafana/grafana:13.1.6', profiles: [observability]}\n"
    )

    etcd, python = "registry.example/team/etcd:v3.6.16", "python:3.13.1-slim"
    assert official(root=tmp_path) == {"python": python, "etcd": etcd}
    assert official(["observability"], tmp_path) == {
        "python": python,
        "etcd": etcd,
        "grafana": "grafana/grafana:13.1.6",
    }
