import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import httpx
import pytest

from tests.support.ports import free_port
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Mailbox:
    smtp_port: int
    web: httpx.AsyncClient

    async def post(
        self, subject: str, text: str = "Hello Ann", to: str = "Ann <ann@shop.test>", html: str | None = None
    ) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "shop@shop.test", to, subject
        mail["Message-ID"] = "<1@shop.test>"
        mail.set_content(text)
        if html:
            mail.add_alternative(html, subtype="html")
        await aiosmtplib.send(mail, hostname="127.0.0.1", port=self.smtp_port, start_tls=False)

    async def json(self, path: str) -> Any:
        answer = await self.web.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
async def running() -> AsyncGenerator[Mailbox]:
    smtp, page = free_port(), free_port()
    environment = os.environ | {
        "SHOPMESH_SMTP_LISTEN": f"127.0.0.1:{smtp}",
        "SHOPMESH_MAIL_LISTEN": f"127.0.0.1:{page}",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.mailbox", env=environment)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{page}", trust_env=False) as web:

        async def answers() -> bool:
            try:
                return (await web.get("/api/v1/messages")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await eventually(answers, "the mailbox answers")
            yield Mailbox(smtp, web)
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 10)


@pytest.fixture
async def mailbox(running: Mailbox) -> Mailbox:
    await running.web.delete("/api/v1/messages")
    return running


async def test_a_mail_sent_by_smtp_is_listed_as_mailpit_lists_it(mailbox: Mailbox) -> None:
    await mailbox.post("Your order")
    listing = await mailbox.json("/api/v1/messages")
    assert (listing["total"], listing["unread"], listing["messages_count"], listing["start"]) == (1, 1, 1, 0)
    [message] = listing["messages"]
    assert message["MessageID"] == "1@shop.test"
    assert message["From"] == {"Name": "", "Address": "shop@shop.test"}
    assert message["To"] == [{"Name": "Ann", "Address": "ann@shop.test"}]
    assert message["Subject"] == "Your order"
    assert message["Snippet"] == "Hello Ann"
    assert message["Read"] is False


async def test_a_message_is_read_whole_by_its_id_and_as_the_latest(mailbox: Mailbox) -> None:
    await mailbox.post("first", text="one\n")
    await mailbox.post("second", text="two\n")
    newest, oldest = (await mailbox.json("/api/v1/messages"))["messages"]
    assert (await mailbox.json(f"/api/v1/message/{oldest['ID']}"))["Text"] == "one\n"
    assert (await mailbox.json("/api/v1/message/latest"))["ID"] == newest["ID"]
    assert (await mailbox.json("/api/v1/messages"))["unread"] == 0
    assert "Subject: first" in (await mailbox.web.get(f"/api/v1/message/{oldest['ID']}/raw")).text


async def test_the_list_is_paged_from_newest_to_oldest(mailbox: Mailbox) -> None:
    for subject in ("a", "b", "c"):
        await mailbox.post(subject)
    page = await mailbox.json("/api/v1/messages?start=1&limit=1")
    assert [message["Subject"] for message in page["messages"]] == ["b"]
    assert page["total"] == 3


async def test_named_messages_are_deleted_and_without_names_all(mailbox: Mailbox) -> None:
    for subject in ("a", "b", "c"):
        await mailbox.post(subject)
    newest = (await mailbox.json("/api/v1/message/latest"))["ID"]
    answer = await mailbox.web.request("DELETE", "/api/v1/messages", json={"IDs": [newest]})
    assert (answer.status_code, answer.text) == (200, "ok")
    assert (await mailbox.json("/api/v1/messages"))["total"] == 2
    await mailbox.web.delete("/api/v1/messages")
    assert (await mailbox.json("/api/v1/messages"))["total"] == 0


async def test_a_message_that_is_not_there_is_not_found(mailbox: Mailbox) -> None:
    assert (await mailbox.web.get("/api/v1/message/nothing")).status_code == 404
    assert (await mailbox.web.get("/mail/latest")).status_code == 404
    assert (await mailbox.web.get("/view/nothing.html")).status_code == 404


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


async def test_hostile_text_is_shown_and_never_run(mailbox: Mailbox) -> None:
    turned = f"{HOSTILE}\u202e\u200b"
    await mailbox.post(turned, text=turned, to=f'"{turned}" <ann@shop.test>')
    for path in ("/", "/mail/latest"):
        page = await mailbox.web.get(path)
        assert page.status_code == 200
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert not {"\u202e", "\u200b"} & {*page.text}, "they would move other text, or hide in it"
        assert "\\u202e" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_html_is_shown_in_a_sandbox_that_loads_and_runs_nothing(mailbox: Mailbox) -> None:
    await mailbox.post("Your order", html=f"<h1>Hello</h1>{HOSTILE}")
    mail = await mailbox.json("/api/v1/message/latest")
    page = await mailbox.web.get("/mail/latest")
    view = await mailbox.web.get(f"/view/{mail['ID']}.html")

    assert mail["HTML"] == f"<h1>Hello</h1>{HOSTILE}\n"
    assert f'<iframe sandbox title="The mail as HTML" src="/view/{mail["ID"]}.html">' in page.text
    assert "<script" not in page.text
    assert "frame-src 'self'" in page.headers["content-security-policy"]
    assert view.text == mail["HTML"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in view.headers["content-security-policy"].split(";"))
    assert rules == {
        "sandbox": "",
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
    }
    assert view.headers["x-content-type-options"] == "nosniff"


async def test_what_a_page_loads_is_served(mailbox: Mailbox) -> None:
    stylesheet = await mailbox.web.get("/pages.css")
    assert stylesheet.headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8025", "127.0.0.1.evil.test"])
async def test_foreign_host_names_are_refused(mailbox: Mailbox, host: str) -> None:
    answer = await mailbox.web.get("/api/v1/messages", headers={"Host": host})
    assert answer.status_code == 421


async def test_the_names_of_this_machine_are_answered(mailbox: Mailbox) -> None:
    for host in ("localhost:8025", "127.0.0.1", "[::1]:8025"):
        answer = await mailbox.web.get("/", headers={"Host": host})
        assert answer.status_code == 200, host


async def test_a_mail_that_is_too_large_is_refused_for_good(mailbox: Mailbox) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException) as refused:
        await mailbox.post("large", text="x" * 11_000_000)
    assert refused.value.code == 552
