import pytest

from services.files import resource


def test_a_file_outside_the_packages_is_found_by_its_name_in_the_repository() -> None:
    assert resource("gen/descriptors.binpb").is_file()


def test_a_file_that_is_nowhere_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"etcd/seed/nothing\.json"):
        resource("etcd/seed/nothing.json")
