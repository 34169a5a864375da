"""Preparing Keycloak, as far as it can be told without running it."""

import stat
from pathlib import Path

from services.cli.local.keycloak import Cache, prepare


def read_only_cache(folder: Path) -> Cache:
    realm = folder / "realm.json"
    realm.write_text("{}")
    cache = Cache(folder / "cache", realm)
    (cache.home / "conf").mkdir(parents=True)
    for file in (cache.installed, cache.base_archive, cache.database, cache.home / "conf" / "keycloak.conf"):
        file.touch()
    for path in cache.folder.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    return cache


def test_what_a_stack_has_of_a_read_only_cache_can_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"

    prepare(read_only_cache(tmp_path), home, 1, 2)

    # Root writes anywhere, so the modes are looked at.
    for path in (home / "conf", home / "conf" / "keycloak.conf", home / "data" / "h2" / "keycloakdb.mv.db"):
        assert path.stat().st_mode & stat.S_IWUSR, path
