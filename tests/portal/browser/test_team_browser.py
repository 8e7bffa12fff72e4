"""Teams in a real browser: invite, join, use a role, and lose the account during a stream; axe at 1200 and 375 px."""

from __future__ import annotations

import re
import time

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect

from minitoolai.core.roles import ROLES, may
from minitoolai.storage.tables import members
from tests.portal.browser.test_axe import axe, violations
from tests.support import catalogs
from tests.support.browse import PASSWORD, Visitor, last_link, new_user
from tests.support.house import enter
from tests.support.pace import TimeLimit
from tests.support.server import ServerProcess
from tests.support.team import new_member, number_of, set_role

pytestmark = pytest.mark.acceptance
__all__ = ["axe"]
KEY = re.compile(r"sk-mt-\w{12}-\w{32}-\w{6}")


def entered(browser: Browser, visitor: Visitor, *, scripts: bool = True, width: int = 1100) -> Page:
    context: BrowserContext = browser.new_context(java_script_enabled=scripts, viewport={"width": width, "height": 800})
    enter(context, visitor)
    return context.new_page()


@pytest.mark.parametrize("scripts", [True, False])
def test_invite_join_and_remove(
    browser: Browser, server: ServerProcess, member: Visitor, email: str, *, scripts: bool
) -> None:
    account, other = number_of(server, email), f"joiner-{int(scripts)}-{email}"
    page = entered(browser, member, scripts=scripts)
    page.goto(server.url + "/en/team")
    page.get_by_label("E-mail address").fill(other)
    page.locator("#role").select_option("developer")
    page.get_by_role("button", name="Send invitation").click()
    expect(page.get_by_role("status")).to_contain_text("was sent")
    guest = browser.new_context(java_script_enabled=scripts).new_page()
    guest.goto(server.url + last_link(server, other))
    guest.get_by_label("Password").fill(PASSWORD)
    guest.get_by_role("button", name="Join").click()
    expect(guest.get_by_role("status")).to_contain_text("Welcome to the team!")
    expect(guest.get_by_role("link", name="Top up")).to_have_count(0)
    guest.goto(server.url + "/en/keys")
    guest.get_by_label("Name of a new key").fill("theirs")
    guest.get_by_role("button", name="Create a key").click()
    key = KEY.search(guest.content())
    assert key
    page.goto(server.url + "/en/keys")
    expect(page.get_by_text(other)).to_be_visible()
    page.goto(server.url + "/en/team")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=f"Remove {other}").click()
    if scripts and page.locator("dialog[open]").count():
        page.locator("dialog[open] button").last.click()
    expect(page.get_by_role("status")).to_contain_text("The member was removed.")
    guest.goto(server.url + "/en/keys")
    expect(guest).to_have_url(re.compile("/en/signin"))
    assert [one.name for one in server.read(lambda c: members.members_of(c, account))] == [email]
    page.context.close()
    guest.context.close()


def test_each_role_sees_what_it_may_do(browser: Browser, server: ServerProcess, member: Visitor, email: str) -> None:
    account, other = number_of(server, email), f"roles-{email}"
    member.open("/keys")
    member.submit("/keys", name="the owner's")
    page = entered(browser, new_member(server, account, other, "viewer"))
    for role in ROLES:
        set_role(server, account, other, role)
        page.goto(server.url + "/en/team")
        for name, action in (("Send invitation", "team"), ("Create a budget", "team"), ("Hand over", "own")):
            expect(page.get_by_role("button", name=name)).to_have_count(int(may(role, action)))  # type: ignore[arg-type]
        # Only a member who did not open the account may delete it here; the other does so on the page of the account.
        expect(page.locator("#delete")).to_have_count(int(may(role, "own")))
        page.goto(server.url + "/en/keys")
        expect(page.get_by_role("button", name="Revoke")).to_have_count(int(may(role, "keys")))
        for path, action in (("/studio", "use"), ("/topup", "pay"), ("/team/log", "team"), ("/usage", "read")):
            page.goto(server.url + "/en" + path)
            is_refused = "Not part of your role" in page.locator("h1").inner_text()
            assert is_refused is not may(role, action), (role, path)  # type: ignore[arg-type]
    page.context.close()


@pytest.mark.parametrize(("width", "theme", "lang"), [(1200, "light", "en"), (375, "dark", "de"), (375, "light", "fr")])
def test_axe_finds_no_violation_on_the_pages_of_a_team(
    browser: Browser, server: ServerProcess, axe: str, email: str, width: int, theme: str, lang: str
) -> None:
    member = new_user(server, email)
    account, other = number_of(server, email), f"axe-{email}"
    new_member(server, account, other, "developer")
    member.open("/team")
    member.submit("/team/invite", email=f"invited-{email}", role="billing")
    link = last_link(server, f"invited-{email}")
    member.open("/team")
    member.submit("/team/budgets", name="Research and development", daily="5", total="100")
    (budget,) = server.read(lambda c: members.budgets_of(c, account))
    member.open("/team")
    member.submit("/team/member", user=str(number_of(server, other)), role="developer", budget=budget.id)
    secret = link.partition("?")[2]
    paths = ["/team", "/team/log", "/team/accounts", f"/team/budgets/{budget.id}", f"/invitation?{secret}", "/keys"]
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)  # type: ignore[arg-type]
    enter(context, member)
    guest = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)  # type: ignore[arg-type]
    visits = [*((context, path) for path in paths), (guest, f"/invitation?{secret}"), (guest, "/invitation?link=x")]
    for where, path in visits:
        page = where.new_page()
        page.goto(f"{server.url}/{lang}{path}")
        assert violations(page, axe) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.close()
    context.close()
    guest.close()


def test_a_member_removed_during_a_stream_loses_it_within_a_second(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ServerProcess(tmp_path_factory.mktemp("removed"), catalog=catalogs.FAKE) as server:
        owner, email = new_user(server, "owner@example.com"), "leaver@example.com"
        account = number_of(server, "owner@example.com")
        server.command("credit", "grant", "owner@example.com", "5")
        person = new_member(server, account, email, "developer")
        keys = []
        for visitor in (person, owner):
            visitor.open("/keys")
            found = KEY.search(visitor.submit("/keys", name="k").text)
            assert found
            keys.append(found[0])
        body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "Go on"}]}
        streams = [
            requests.post(
                server.url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"},
                stream=True, timeout=60,
            )
            for key in keys
        ]  # fmt: skip
        received, others = (stream.iter_lines() for stream in streams)
        for _ in range(10):
            next(received), next(others)
        owner.open("/team")
        fields = owner.fields("/team/remove") | {"user": str(number_of(server, email))}
        limit, began_s = TimeLimit(1.0, "s"), time.monotonic()
        assert owner.post(owner.url("/team/remove"), data=fields, allow_redirects=False, timeout=20).status_code == 303
        rest = b"\n".join(received).decode()
        took_s = time.monotonic() - began_s
        print(f"\nthe stream of the removed member ended after {took_s:.2f} s")
        assert limit.permits(took_s), limit
        assert "invalid_api_key" in rest
        assert "[DONE]" not in rest
        assert next(line for line in others if line).startswith(b"data:")
        streams[1].close()
        assert "/signin" in person.open("/usage").url
