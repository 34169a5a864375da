"""A real Chromium, where there is one: what SHOPMESH_CHROMIUM names, the system's, or what `make chromium` fetched."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from services.cli.local.downloads import cache_folder

HOW_TO_GET_ONE = "there is no Chromium on this machine: `make chromium` fetches one (70 MB), or install the system's"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True, slots=True)
class Chromium:
    program: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def chromium() -> Chromium | None:
    """None where there is none."""
    fetched = cache_folder() / "chromium"
    if named := os.environ.get("SHOPMESH_CHROMIUM"):
        return Chromium(named)
    if (fetched / "chromium").exists():
        fonts = {} if Path("/usr/share/fonts").is_dir() else {"FONTCONFIG_FILE": str(fetched / "fonts.conf")}
        return Chromium(str(fetched / "chromium"), {"LD_LIBRARY_PATH": str(fetched / "lib"), **fonts})
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    return Chromium(installed) if installed else None


@asynccontextmanager
async def running_chromium(found: Chromium) -> AsyncIterator[Browser]:
    """Without its sandbox, which root and many containers cannot have: the pages are our own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found.program,
            env={**os.environ, **found.environment},
            chromium_sandbox=False,
            timeout=60_000,
        )
        try:
            yield browser
        finally:
            await browser.close()
