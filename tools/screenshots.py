"""Take screenshots of every page for docs/screenshots/: light and dark, wide and 360 px, in two languages.

    python -m tools.screenshots                     all pages
    python -m tools.screenshots /usage /studio      only these pages
    python -m tools.screenshots --all FOLDER        all eight variants of each page, full length, into FOLDER
    python -m tools.screenshots --readme            docs/portal-home.png and docs/portal-usage.png of the README

Starts a server of its own with a user who has a month of usage. Needs chromium and the packages of `make dev`.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.chromium import chromium
from tests.support.house import OPEN, enter, furnish, pages
from tests.support.server import ServerProcess

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
#: Width, theme, language.
Look = tuple[int, str, str]
LOOKS: dict[str, Look] = {
    "wide-light": (1200, "light", "en"),
    "wide-dark": (1200, "dark", "de"),
    "phone-light": (360, "light", "de"),
    "phone-dark": (360, "dark", "en"),
}
ALL: dict[str, Look] = {
    f"{'wide' if width == 1200 else 'phone'}-{theme}-{lang}": (width, theme, lang)
    for width in (1200, 360)
    for theme in ("light", "dark")
    for lang in ("en", "de")
}
#: The top of a long page is shown: at most this many pixels.
TALLEST = {1200: 1500, 360: 1100}
QUALITY = 45


def take(
    browser: Browser, member: Visitor, wanted: list[str], folder: Path, looks: dict[str, Look], *, whole: bool
) -> Iterator[Path]:
    """Take the screenshots and yield each file as it is written."""
    for look, (width, theme, lang) in looks.items():
        scheme: Any = theme
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, device_scale_factor=1
        )
        page = context.new_page()
        for is_open in (True, False):
            if not is_open:
                enter(context, member)
            for path in (path for path in wanted if (path in OPEN) is is_open):
                page.goto(f"{member.server.url}/{lang}{path}")
                if whole:
                    page.evaluate("document.querySelectorAll('main details').forEach(part => { part.open = true; })")
                height = page.evaluate("document.documentElement.scrollHeight")
                file = folder / f"{name_of(path)}-{look}.jpeg"
                page.screenshot(path=file, type="jpeg", quality=QUALITY, full_page=True,
                                clip={"x": 0, "y": 0, "width": width,
                                      "height": height if whole else min(height, TALLEST[width])})  # fmt: skip
                yield file
        context.close()


#: PNG of the README → its page.
README_PICTURES = {"portal-home.png": "/", "portal-usage.png": "/usage"}
README_SIZE = (1100, 860)
LARGEST_README_PICTURE = 150_000


def take_for_readme(browser: Browser, member: Visitor, folder: Path) -> Iterator[Path]:
    """Take the pictures of the README, with few colours so that they stay small."""
    width, height = README_SIZE
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    page = context.new_page()
    for name, path in README_PICTURES.items():
        if path not in OPEN:
            enter(context, member)
        page.goto(f"{member.server.url}/en{path}")
        picture = Image.open(io.BytesIO(page.screenshot(type="png"))).convert("RGB")
        file = folder / name
        picture.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
        assert file.stat().st_size <= LARGEST_README_PICTURE, f"{file} is too large"
        yield file
    context.close()


def name_of(path: str) -> str:
    """`/admin/accounts/1001` → `admin-account`"""
    return re.sub(r"s/gen-\w+|s/\w{12}$|s/\d+(?=/|$)", "", path).strip("/").replace("/", "-") or "home"


def main() -> int:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.screenshots", description="Take screenshots of the portal pages."
    )
    parser.add_argument("pages", nargs="*", help="pages like /usage; all by default")
    parser.add_argument(
        "--all", type=Path, metavar="FOLDER", help="all variants of each page, full length, into this folder"
    )
    parser.add_argument("--readme", action="store_true", help="the two pictures of the README")
    options = parser.parse_args()
    folder, looks = (options.all, ALL) if options.all else (FOLDER, LOOKS)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, ServerProcess(Path(data), catalog=CATALOG) as server:
        member = furnish(server)
        with sync_playwright() as playwright:
            browser = chromium(playwright)
            wanted = options.pages or pages(server)
            if options.readme:
                files = list(take_for_readme(browser, member, FOLDER.parent))
            else:
                files = list(take(browser, member, wanted, folder, looks, whole=bool(options.all)))
            browser.close()
    size = sum(file.stat().st_size for file in files)
    sys.stdout.write(f"{len(files)} screenshots, {size / 1e6:.1f} MB, in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
