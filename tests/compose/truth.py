"""What must be true of the shop in containers when its faults are over: of all orders of one product.

Stores are compared with what customers and mail server know. `shopmesh audit`, which takes longer, compares them with
one another, in the end.
"""

import asyncio
from collections import Counter

import httpx

from tests.compose.customers import Seen
from tests.compose.project import Project
from tests.support.waiting import eventually

WITHIN_S = 90.0
"""Leases of workers are 30 s, and the machine may be slow."""
_ORDERS = "select request_id, order_id, state, settled_time is not null from audit_orders where lines::text like '%{}%'"
_MAILS = "select order_id, state, possible_duplicates from audit_notifications where kind = 'ORDER_PLACED'"


async def becomes_true(project: Project, seen: Seen, product: str) -> int:
    """Returns how many mails came twice, as the shop knows. Raises AssertionError, naming what differs."""

    async def look() -> bool:
        differences = await asyncio.to_thread(_differences, project, seen, product)
        assert not differences, f"{len(differences)} differences: " + "\n".join(differences[:20])
        return True

    await eventually(look, "everything is as it must be", WITHIN_S)
    placed = await asyncio.to_thread(_mails, project)
    return sum(placed[order] > 1 for order in seen.acknowledged.values())


def _differences(project: Project, seen: Seen, product: str) -> list[str]:
    rows = project.query("order", _ORDERS.format(product.removeprefix("products/")))
    notified = {row[0]: row for row in project.query("notification", _MAILS)}
    came, kept = _mails(project), {row[0]: row[1] for row in rows}
    found = [
        *(f"{request} was answered with order {order}, there is {kept.get(request)}"
          for request, order in seen.acknowledged.items() if kept.get(request) != order),
        *(f"nobody was told of order {order}" for request, order in kept.items()
          if request not in seen.acknowledged and not seen.failed),
        *([] if len(kept) == len(rows) else [f"{len(rows)} orders for {len(kept)} requests"]),
        *(f"order {order} is {state}{'' if settled == 't' else ', not settled'}"
          for _, order, state, settled in rows if (state, settled) != ("PLACED", "t")),
    ]  # fmt: skip
    for order in kept.values():
        _, state, known = notified.get(order, [order, "not known", "0"])
        if state != "SENT":
            found.append(f"the mail for {order} is {state}")
        elif not 1 <= came[order] <= 1 + int(known):
            found.append(f"the mail for {order} came {came[order]} times, {known} duplicates are known of")
    return found


def _mails(project: Project) -> Counter[str]:
    """How often which order was confirmed, as Mailpit knows. Raises AssertionError while it does not answer."""
    came, start = Counter[str](), 0
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{project.mail}", trust_env=False, timeout=30) as mailpit:
            while True:
                page = mailpit.get("/api/v1/messages", params={"start": start, "limit": 1000}).raise_for_status().json()
                ids = [str(mail["MessageID"]).strip("<>").partition("@")[0] for mail in page["messages"]]
                came.update(id.removeprefix("placed.") for id in ids if id.startswith("placed."))
                start += len(ids)
                if not ids or start >= page["total"]:
                    return came
    except httpx.HTTPError as error:
        raise AssertionError(f"Mailpit does not answer: {error}") from error
