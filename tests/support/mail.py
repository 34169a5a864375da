"""Mails of a shop, read by Mailpit's API."""

from typing import Any

import httpx

NEWEST = 200
"""So many are looked at: those of others come in between."""


async def mails_about(mail: str, order: str) -> list[dict[str, Any]]:
    """Mails of an order, whole, by the URL of the API; which they are says the Message-ID that all of them have."""
    id = order.removeprefix("orders/")
    async with httpx.AsyncClient(base_url=mail, trust_env=False, timeout=60) as mailpit:
        newest = (await mailpit.get("/api/v1/messages", params={"limit": NEWEST})).raise_for_status().json()["messages"]
        return [
            (await mailpit.get(f"/api/v1/message/{each['ID']}")).raise_for_status().json()
            for each in newest
            if id in each["MessageID"]
        ]
