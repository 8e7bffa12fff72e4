"""Set up a second factor in a real browser: an independent decoder reads the QR code off the screen, then sign in."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browse import PASSWORD, Visitor, code_now, new_user
from tests.support.house import enter
from tests.support.programs import NODE, install_node
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance
#: What a phone does: decode the pixels of a picture. Returns the text, or null.
SCAN = """async png => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height);
  return jsQR(pixels.data, image.width, image.height)?.data ?? null;
}"""


@pytest.fixture(scope="module")
def scanner(browser: Browser) -> Iterator[Page]:
    """A page of its own, without the portal's content security policy, that decodes QR codes with jsQR."""
    install_node()
    page = browser.new_page()
    page.add_script_tag(path=NODE / "node_modules" / "jsqr" / "dist" / "jsQR.js")
    yield page
    page.close()


@pytest.mark.parametrize(("scripts", "theme"), [(True, "dark"), (False, "light")])
def test_from_the_qr_code_to_a_sign_in(
    browser: Browser, scanner: Page, server: ServerProcess, email: str, scripts: bool, theme: str
) -> None:
    member = new_user(server, email)
    member.open("/account")
    context = browser.new_context(
        java_script_enabled=scripts, color_scheme=theme, viewport={"width": 360, "height": 800}
    )
    enter(context, member)
    page, wrong = context.new_page(), list[str]()
    page.on(
        "console", lambda said: wrong.append(said.text) if said.type == "error" and "422" not in said.text else None
    )
    page.goto(server.url + "/en/account")
    page.get_by_role("link", name="Set up a second factor").click()
    # The camera reads what is on the screen, in both themes.
    picture = base64.b64encode(page.locator(".qr-frame").screenshot()).decode()
    scanned = urlsplit(scanner.evaluate(SCAN, picture))
    assert (scanned.scheme, scanned.netloc, scanned.path) == ("otpauth", "totp", f"/MiniToolAI:{email}")
    text = parse_qs(scanned.query)["secret"][0]
    assert page.locator("#secret").inner_text().replace(" ", "") == text
    secret = base64.b32decode(text)
    page.get_by_label("Code from the app").fill("000000")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Turn it on").click()
    page.get_by_text("This code is wrong").wait_for()
    used = code_now(secret)
    page.get_by_label("Code from the app").fill(used)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Turn it on").click()
    codes = page.locator("#recovery-codes").inner_text().split()
    assert len(codes) == 10
    page.get_by_role("link", name="I have saved them").click()
    page.locator("#sessions").get_by_text("this browser").wait_for()
    sign_out(page, server)
    # The code that set it up is used; the next one is accepted, as clocks may differ by one step.
    for offset, is_right in ((None, False), (1, True)):
        sign_in(page, server, email)
        page.get_by_label("Code", exact=True).fill(used if offset is None else code_now(secret, offset))
        page.locator("main button").click()
        page.get_by_text("Keys" if is_right else "This code is wrong").first.wait_for()
    page.get_by_role("heading", name="Keys", exact=True).wait_for()
    page.goto(server.url + "/en/account")
    page.locator("#sessions").get_by_text("Chrome on Linux").wait_for()
    sign_out(page, server)
    sign_in(page, server, email)
    page.get_by_label("Code", exact=True).fill(codes[0])
    page.locator("main button").click()
    page.get_by_text("You used a recovery code.").wait_for()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Code", exact=True).fill(codes[1])
    page.get_by_role("button", name="Remove the second factor").click()
    page.get_by_text("The second factor was removed.").wait_for()
    assert wrong == []
    context.close()
    assert Visitor(server).sign_in(email).page.url.endswith("/keys")


def sign_out(page: Page, server: ServerProcess) -> None:
    """Sign out by the menu."""
    page.goto(server.url + "/en/account")
    page.locator("header details.menu summary").last.click()
    page.locator("header").get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()


def sign_in(page: Page, server: ServerProcess, email: str) -> None:
    """Prove the password, up to the question for the code."""
    page.goto(server.url + "/en/signin")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main button").click()
    page.wait_for_url(re.compile("/signin/code"))
