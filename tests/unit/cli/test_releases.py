import pytest

from services.cli.local.releases import Release, wanted
from services.failure import Failure

NAMES = [
    (Release("product"), 1, "product"),
    (Release("product"), 2, "product-2"),
    (Release("product", "2.0-test"), 1, "product@2.0-test"),
    (Release("product", "2.0-test"), 3, "product-3@2.0-test"),
    (Release("product", "2"), 1, "product@2"),
]


@pytest.mark.parametrize(("release", "number", "name"), NAMES)
def test_an_instance_is_named_after_its_release_and_tells_it(release: Release, number: int, name: str) -> None:
    assert release.instance(number) == name
    assert Release.of(name) == release


@pytest.mark.parametrize("part", ["envoy", "etcd", "demo data", "products", "product-", "product@"])
def test_other_parts_belong_to_no_release(part: str) -> None:
    assert Release.of(part) is None


def test_a_command_line_says_how_many_of_which_release() -> None:
    assert wanted(["inventory=2", "product@2.0=1"]) == {Release("inventory"): 2, Release("product", "2.0"): 1}


@pytest.mark.parametrize(
    "word", ["inventory", "inventory=0", "inventory=x", "stock=2", "product@=1", "product@ü=1", "=1"]
)
def test_what_says_neither_is_refused(word: str) -> None:
    with pytest.raises(Failure, match="write SERVICE"):
        wanted([word])
