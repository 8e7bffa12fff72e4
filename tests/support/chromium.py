"""Start the system's Chromium through Playwright, without update checks and other background traffic."""

from __future__ import annotations

from playwright.sync_api import Browser, Playwright

from tests.support.programs import program

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def chromium(playwright: Playwright) -> Browser:
    """Return a browser; the caller closes it."""
    return playwright.chromium.launch(executable_path=program("chromium"), args=list(ARGUMENTS))
