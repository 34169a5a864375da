"""Letters in the JSON of Mailpit's API, so that whoever reads mails reads them from either."""

from collections.abc import Iterable
from typing import Any

from services.mailbox.letters import Correspondent, Letter, Part
from services.mailbox.shelf import Shelf


def listing(shelf: Shelf, start: int, limit: int) -> dict[str, Any]:
    """`GET /api/v1/messages`: MessagesSummary."""
    letters = shelf.newest_first()
    page = [summary(letter, shelf.is_read(letter)) for letter in letters[start : start + limit]]
    return {
        "total": len(letters),
        "unread": shelf.unread(),
        "count": len(page),
        "messages_count": len(letters),
        "messages_unread": shelf.unread(),
        "start": start,
        "tags": [],
        "messages": page,
    }


def summary(letter: Letter, read: bool) -> dict[str, Any]:
    """One of `messages`: MessageSummary."""
    return _head(letter) | {
        "Read": read,
        "Created": letter.received.isoformat(),
        "Attachments": len(letter.attachments),
        "Snippet": letter.snippet,
    }


def message(letter: Letter) -> dict[str, Any]:
    """`GET /api/v1/message/{id}`: Message."""
    return _head(letter) | {
        "ReturnPath": letter.return_path,
        "Date": letter.date.isoformat(),
        "ListUnsubscribe": {"Header": "", "Links": [], "Errors": "", "HeaderPost": ""},
        "Text": letter.text,
        "HTML": letter.html,
        "Inline": [_part(part) for part in letter.parts if part.inline],
        "Attachments": [_part(part) for part in letter.attachments],
    }


def _head(letter: Letter) -> dict[str, Any]:
    return {
        "ID": letter.id,
        "MessageID": letter.message_id,
        "From": _correspondent(letter.sender),
        "To": _correspondents(letter.to),
        "Cc": _correspondents(letter.cc),
        "Bcc": _correspondents(letter.bcc),
        "ReplyTo": _correspondents(letter.reply_to),
        "Subject": letter.subject,
        "Username": "",
        "Tags": [],
        "Size": len(letter.raw),
    }


def _correspondents(all_of_them: Iterable[Correspondent]) -> list[dict[str, str]]:
    return [_correspondent(one) for one in all_of_them]


def _correspondent(one: Correspondent) -> dict[str, str]:
    return {"Name": one.name, "Address": one.address}


def _part(part: Part) -> dict[str, Any]:
    return {
        "PartID": part.id,
        "FileName": part.file_name,
        "ContentType": part.content_type,
        "ContentID": part.content_id,
        "Size": part.size,
    }
