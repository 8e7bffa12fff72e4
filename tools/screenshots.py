"""Pictures of every page for docs/screenshots/: light and dark, wide and 360 px, in two languages.

    python -m tools.screenshots                     all of them
    python -m tools.screenshots /usage /studio      only these pages

Starts a server of its own with somebody who has used it for a month. Needs chromium and the packages of `make dev`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.chromium import chromium
from tests.support.house import OPEN, enter, furnish, pages
from tests.support.server import ServerProcess

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
LOOKS = {"wide-light": (1200, "light", "en"), "wide-dark": (1200, "dark", "de"),
         "phone-light": (360, "light", "de"), "phone-dark": (360, "dark", "en")}  # fmt: skip
#: A long page is shown from its beginning: this many of its widths.
TALLEST = {1200: 1500, 360: 1100}
QUALITY = 45


def take(browser: Browser, member: Visitor, wanted: list[str]) -> Iterator[Path]:
    """One picture after the other, each as it is written."""
    for look, (width, theme, lang) in LOOKS.items():
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=theme, device_scale_factor=1
        )
        page = context.new_page()
        for is_open in (True, False):
            if not is_open:
                enter(context, member)
            for path in (path for path in wanted if (path in OPEN) is is_open):
                page.goto(f"{member.server.url}/{lang}{path}")
                height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST[width])
                name = re.sub(r"s/\d+$", "", path).strip("/").replace("/", "-") or "home"
                file = FOLDER / f"{name}-{look}.jpeg"
                page.screenshot(path=file, type="jpeg", quality=QUALITY, full_page=True,
                                clip={"x": 0, "y": 0, "width": width, "height": height})  # fmt: skip
                yield file
        context.close()


def main() -> int:
    """Take them all."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description="Take pictures of the pages.")
    parser.add_argument("pages", nargs="*", help="pages like /usage; all where none is named")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), catalog=CATALOG) as server:
        member = furnish(server)
        with sync_playwright() as playwright:
            browser = chromium(playwright)
            files = list(take(browser, member, options.pages or pages(server)))
            browser.close()
    size = sum(file.stat().st_size for file in files)
    sys.stdout.write(f"{len(files)} pictures, {size / 1e6:.1f} MB, in {FOLDER.relative_to(Path.cwd())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
