"""Which etcd a local shop and the tests run on."""

import re
from pathlib import Path

import pytest

from services.cli.local.etcd import release
from services.files import resource

GO_MOD = resource("etcd/server/go.mod")


def test_a_built_etcd_is_used_when_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert release().name == "etcd-3.5", "the packaged one"
    built = tmp_path / "shopmesh" / "etcd-3.6"
    built.parent.mkdir()
    built.touch()
    assert release().name == "etcd-3.5", "what cannot be run is not used"
    built.chmod(0o755)
    assert release().program == built


def test_what_make_builds_is_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pinned = re.search(r"^require go.etcd.io/etcd/server/v3 v(3\.\d+)\.", GO_MOD.read_text(), re.MULTILINE)
    assert pinned
    built = tmp_path / "shopmesh" / f"etcd-{pinned[1]}"
    built.parent.mkdir()
    built.touch(mode=0o755)
    assert release().program == built
