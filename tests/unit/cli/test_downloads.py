import hashlib
import sys
from pathlib import Path

import pytest

from services.cli.local.downloads import Artifact, fetch
from services.failure import Failure

CONTENT = b"keycloak"
ARTIFACT = Artifact("group:artifact:zip:1", "artifact.zip", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "1")


def program(code: str) -> list[str]:
    """Stands where maven-artifact stands: sys.argv[2] is the file to write."""
    return [sys.executable, "-c", f"import pathlib, sys; file = pathlib.Path(sys.argv[2]); {code}"]


def nothing(step: str, done: float, total: float) -> None:
    assert step
    assert done <= total


def test_a_file_is_downloaded_once(tmp_path: Path) -> None:
    fetched = fetch(ARTIFACT, tmp_path, nothing, program("file.write_bytes(b'keycloak')"))
    again = fetch(ARTIFACT, tmp_path, nothing, program("sys.exit('asked twice')"))

    assert fetched == again
    assert fetched.read_bytes() == CONTENT


def test_a_changed_file_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="sha256 differs"):
        fetch(ARTIFACT, tmp_path, nothing, program("file.write_bytes(b'malware')"))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "mend"),
    [("sys.exit('Name or service not known')", "check the network or proxy"),
     ("sys.exit('[Errno 28] No space left on device')", "free 1 GB")],
)  # fmt: skip
def test_a_download_that_fails_says_what_mends_it(tmp_path: Path, failure: str, mend: str) -> None:
    with pytest.raises(Failure, match=mend):
        fetch(ARTIFACT, tmp_path, nothing, program(failure))


def test_a_file_put_there_by_hand_is_taken(tmp_path: Path) -> None:
    (tmp_path / ARTIFACT.file_name).write_bytes(CONTENT)

    assert fetch(ARTIFACT, tmp_path, nothing, program("sys.exit('no network')")) == tmp_path / ARTIFACT.file_name
