"""`shopmesh check` with tests of its own: what it tells of them, and how it ends."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import check
from services.cli.__main__ import main
from tests.support.ports import free_port

TOLD = {"SHOPMESH_TARGET": "127.0.0.1:8080", "SHOPMESH_ISSUER": "http://localhost:8180/realms/shop"}

MIXED = '''"""What a shop is asked.

More about it."""
import pytest

def test_all_is_well(): pass

@pytest.mark.parametrize("door", ["REST"])
def test_the_answer_is_the_same(door):
    assert 1 == 2, "another answer"

@pytest.fixture
def mail(): pytest.skip("SHOPMESH_MAIL allows it")

def test_a_mail_comes(mail): pass
'''


def checked(folder: Path, code: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    suite = folder / "test_suite.py"
    suite.write_text(code)
    return check.run(TOLD, str(suite)), capsys.readouterr().out


def test_it_tells_what_held_what_failed_and_what_would_let_it_check_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(tmp_path, MIXED, capsys)

    assert code == 1
    assert "   1 of 2 held   What a shop is asked\n" in said
    assert "FAILED the answer is the same [REST]\n                   AssertionError: another answer" in said
    assert "1 held, 1 failed, 1 not checked here\n      1  SHOPMESH_MAIL allows it\n" in said
    log = Path(said.strip().rpartition(" ")[2])
    assert "test_the_answer_is_the_same" in log.read_text()


def test_a_suite_that_cannot_be_read_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(tmp_path, "import nothing_of_that_name", capsys)

    assert code == 1
    assert "No module named 'nothing_of_that_name'" in said


def test_when_nothing_was_checked_it_does_not_say_that_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(tmp_path, "import pytest\ndef test_it(): pytest.skip('no')", capsys)

    assert code == 2
    assert "0 held, 0 failed, 1 not checked here" in said


def test_a_shop_that_is_not_there_is_told_in_one_line() -> None:
    target = f"127.0.0.1:{free_port()}"

    done = CliRunner().invoke(main, ["check", "--target", target])

    assert done.exit_code == 2
    assert f"Error: the edge does not answer at http://{target}/" in done.output
    assert done.output.count("\n") == 1


def test_where_the_tests_are_not_installed_it_says_how_they_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CHECKOUT", tmp_path)

    done = CliRunner().invoke(main, ["check", "--target", "127.0.0.1:1"])

    assert done.exit_code == 2
    assert ".venv/bin/shopmesh check --target HOST:PORT --issuer URL" in done.output
