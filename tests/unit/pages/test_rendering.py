import pytest

from services.pages.rendering import LONGEST, plain, span_of_time


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Größe 日本 🫖", "Größe 日本 🫖"),
        ("\x1b[31mred\x00", "\\u001b[31mred\\u0000"),
        ("invoice\u202etxt.exe", "invoice\\u202etxt.exe"),
        ("\u2066hidden\u2069", "\\u2066hidden\\u2069"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("half \ud83d", "half \\ud83d"),
        (12.5, "12.5"),
    ],
)
def test_what_would_not_be_seen_or_moves_other_text_is_written_out(text: object, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert plain("x" * 1_000_000) == "x" * LONGEST + "… (998000 more characters)"


@pytest.mark.parametrize(
    ("ns", "said"),
    [(350_000, "350 µs"), (12_340_000, "12.3 ms"), (1_250_000_000, "1.25 s"), (180e9, "3 min"), (7_200e9, "2 h")],
)
def test_durations_are_said_as_people_say_them(ns: float, said: str) -> None:
    assert span_of_time(ns) == said
