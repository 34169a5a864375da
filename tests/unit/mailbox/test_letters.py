from datetime import UTC, datetime
from email.message import EmailMessage

from hypothesis import given
from hypothesis import strategies as st

from services.mailbox.letters import Correspondent, Letter, read
from services.mailbox.shelf import Shelf

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def received(raw: bytes, to: str = "ann@shop.test") -> Letter:
    return read(raw, "shop@shop.test", [to], NOON)


def test_names_subject_and_text_are_decoded() -> None:
    mail = EmailMessage()
    mail["From"] = "Käthe, Versand <versand@shop.test>"
    mail["To"] = "Ann <ann@shop.test>"
    mail["Subject"] = "Bestellung – bestätigt"
    mail.set_content("Schöne Grüße\n")
    letter = received(mail.as_bytes())
    assert letter.to == (Correspondent("Ann", "ann@shop.test"),)
    assert letter.subject == "Bestellung – bestätigt"
    assert letter.text == "Schöne Grüße\n"


def test_a_comma_in_an_encoded_name_does_not_part_it() -> None:
    letter = received(b"To: =?utf-8?q?Lovelace=2C_Ann?= <ann@shop.test>\r\n\r\n")
    assert letter.to == (Correspondent("Lovelace, Ann", "ann@shop.test"),)


def test_headers_in_raw_utf8_are_read() -> None:
    assert received("Subject: bestätigt\r\n\r\n".encode()).subject == "bestätigt"


def test_whom_only_the_envelope_names_is_a_hidden_recipient() -> None:
    letter = received(b"To: ann@shop.test\r\n\r\n", to="bob@shop.test")
    assert letter.bcc == (Correspondent("", "bob@shop.test"),)


def test_text_html_and_attachments_are_told_apart() -> None:
    mail = EmailMessage()
    mail.set_content("plain")
    mail.add_alternative("<p>html</p>", subtype="html")
    mail.add_attachment(b"12345", maintype="application", subtype="pdf", filename="bill.pdf")
    letter = received(mail.as_bytes())
    assert (letter.text, letter.html) == ("plain\n", "<p>html</p>\n")
    assert [(part.file_name, part.content_type, part.size) for part in letter.attachments] == [
        ("bill.pdf", "application/pdf", 5)
    ]


FRAGMENTS = [
    *(b'< > @ a , ; : . = ( ) [ \\ "'.split()),
    b" ",
    b"\xff",
    b"=?utf-8?q?=ff?=",
    b"=?x?b?a?=",
    b"multipart/mixed; boundary=x",
    b"message/rfc822",
    b"text/plain; charset=klingon",
    b"text/html",
    b"base64",
    b"--x\r\n",
    b"--x--\r\n",
    b"Mon, 1 Jan 2024 00:00:00 -0000",
    b"inline; filename*=utf-8''%ff",
]
HEADERS = st.sampled_from(
    [b"From", b"To", b"Message-ID", b"Subject", b"Date", b"Content-Type", b"Content-Transfer-Encoding", b"Content-ID"]
)
FRAGMENT = st.sampled_from(FRAGMENTS)
HEADER = st.tuples(HEADERS, st.binary(max_size=30) | st.lists(FRAGMENT, max_size=6).map(b"".join)).map(
    lambda pair: pair[0] + b": " + pair[1] + b"\r\n"
)
BODY = st.lists(FRAGMENT | HEADER | st.just(b"\r\n"), max_size=12)


@given(st.lists(HEADER, max_size=8).map(b"".join), BODY.map(b"".join))
def test_no_mail_is_too_odd_to_be_kept(head: bytes, body: bytes) -> None:
    assert received(head + b"\r\n" + body).raw == head + b"\r\n" + body


def test_the_oldest_make_room_for_the_newest() -> None:
    shelf = Shelf(most=3, most_bytes=100)
    for number in range(5):
        shelf.put(received(b"Subject: %d\r\n\r\n" % number))
    assert [letter.subject for letter in shelf.newest_first()] == ["4", "3", "2"]
    shelf.put(received(b"Subject: large\r\n\r\n" + b"x" * 200))
    assert [letter.subject for letter in shelf.newest_first()] == ["large"]


def test_a_letter_counts_as_read_once_it_was_opened() -> None:
    shelf = Shelf()
    shelf.put(received(b"\r\n"))
    assert shelf.unread() == 1
    shelf.open("latest")
    assert shelf.unread() == 0
