"""Sign in with a real OpenID provider and a server like GitHub: new, known and foreign addresses; no passwords."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from minitoolai.storage.tables import identities, users
from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, last_link, letters, new_user
from tests.support.cli import CATALOG
from tests.support.identity_provider import CLIENT_SECRET, GitHub, free_port, openid_provider
from tests.support.server import ServerProcess
from tests.support.team import number_of

pytestmark = pytest.mark.acceptance
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with GitHub() as github:
        yield github


@pytest.fixture(scope="module")
def sso(github: GitHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    port = free_port()
    env = {
        "MINITOOLAI_OIDC_ISSUER": f"http://127.0.0.1:{port}", "MINITOOLAI_OIDC_CLIENT_ID": "portal",
        "MINITOOLAI_OIDC_CLIENT_SECRET": CLIENT_SECRET, "MINITOOLAI_OIDC_NAME": "Acme",
        "MINITOOLAI_TRIES_FACTOR": "1000",
        "MINITOOLAI_GITHUB_CLIENT_ID": "gh", "MINITOOLAI_GITHUB_CLIENT_SECRET": "hush",
        "MINITOOLAI_GITHUB_URL": github.url, "MINITOOLAI_SIGNUP_CREDIT": "1.00",
    }  # fmt: skip
    with (
        ServerProcess(tmp_path_factory.mktemp("sso"), catalog=CATALOG, env=env) as server,
        openid_provider(f"{server.url}/en/signin/done/oidc", port),
    ):
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 375, "height": 800})
    yield context.new_page()
    context.close()


@pytest.fixture
def address() -> str:
    return f"sso{next(_numbers)}@example.com"


def log_in(page: Page, login: str) -> None:
    """Use the provider's development pages: name the user, then consent."""
    page.locator("input[name=login]").fill(login)
    page.locator("input[name=password]").fill("any")
    page.locator("button[type=submit]").click()
    if "/interaction/" in page.url:
        page.locator("button[type=submit]").click()


def start(page: Page, server: ServerProcess, lang: str = "en") -> None:
    page.goto(f"{server.url}/{lang}/signin")
    page.locator('a[href*="/signin/with/oidc"]').click()


def test_a_new_address_gets_an_account_and_signs_in_again(sso: ServerProcess, page: Page, address: str) -> None:
    start(page, sso, "de")
    log_in(page, address)
    expect(page).to_have_url(re.compile("/de/keys"))
    assert sso.read(lambda c: users.find_user(c, address))[1] is None
    user_id = number_of(sso, address)
    (row,) = sso.read(lambda c: identities.of_user(c, user_id))
    assert (row.subject, row.email) == (address, address)
    page.context.clear_cookies()
    start(page, sso)
    log_in(page, address)
    expect(page).to_have_url(re.compile("/en/keys"))
    assert number_of(sso, address) == user_id
    # The operator's credit for a sign-up was given once.
    page.goto(sso.url + "/en/balance")
    expect(page.locator("main")).to_contain_text("$1.00")


def test_an_address_that_exists_is_not_taken_over_without_its_password(
    sso: ServerProcess, page: Page, address: str
) -> None:
    new_user(sso, address)
    user_id = number_of(sso, address)
    secret = add_second_factor(sso, address)
    start(page, sso)
    log_in(page, address)
    expect(page).to_have_url(re.compile("/en/signin"))
    expect(page.get_by_role("status")).to_contain_text("An account with this address exists")
    page.goto(sso.url + "/en/account")
    expect(page).to_have_url(re.compile("/en/signin"))
    assert sso.read(lambda c: identities.of_user(c, user_id)) == []
    # With password and second factor, the user connects it.
    page.goto(sso.url + "/en/signin?next=/en/account/connect")
    page.get_by_label("E-mail address").fill(address)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main form button").click()
    page.locator("#code").fill(code_now(secret))
    page.locator("main form button").click()
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("status")).to_contain_text("You can sign in this way from now on.")
    # The next sign-in needs no password, but the second factor still.
    page.context.clear_cookies()
    start(page, sso)
    log_in(page, address)
    expect(page).to_have_url(re.compile("/en/signin/code"))
    page.locator("#code").fill(code_now(secret, 1))
    page.locator("main form button").click()
    expect(page).to_have_url(re.compile("/en/keys"))


def test_an_unverified_address_opens_no_account(sso: ServerProcess, page: Page, address: str) -> None:
    start(page, sso)
    log_in(page, "unverified-" + address)
    expect(page.get_by_role("status")).to_contain_text("has not verified your e-mail address")
    assert sso.read(lambda c: users.find_user(c, "unverified-" + address)) is None


def test_an_identity_is_connected_on_the_account_page_and_disconnected(
    sso: ServerProcess, page: Page, address: str
) -> None:
    member = new_user(sso, address)
    page.context.add_cookies(
        [{"name": name, "value": member.cookies[name], "url": sso.url} for name in ("session", "browser")]
    )
    page.goto(sso.url + "/en/account")
    page.get_by_role("link", name="Connect Acme").click()
    # Another address at the provider: the signed-in user decides.
    log_in(page, "work-" + address)
    expect(page.get_by_role("status")).to_contain_text("You can sign in this way from now on.")
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_role("status")).to_contain_text("This sign-in is no longer connected.")
    # Without the token of the account page, nothing is connected.
    assert "/en/keys" in member.open("/signin/with/oidc").url
    assert "/en/keys" in member.open("/signin/with/oidc?connect=forged").url


def test_answers_of_other_attempts_are_refused(sso: ServerProcess) -> None:
    visitor = Visitor(sso)
    assert "/en/signin" in visitor.open("/signin/done/oidc?code=x&state=y").url
    began = visitor.get(visitor.url("/signin/with/oidc"), allow_redirects=False, timeout=20)
    query = parse_qs(urlsplit(began.headers["location"]).query)
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    state = query["state"][0]
    for answer in (f"code=x&state={state}x", f"code=x&state={state}", f"error=access_denied&state={state}"):
        visitor.get(visitor.url("/signin/with/oidc"), allow_redirects=False, timeout=20)
        assert "The sign-in did not work." in visitor.open(f"/signin/done/oidc?{answer}").text
    # The state of one browser is worth nothing in another.
    assert "The sign-in did not work." in Visitor(sso).open(f"/signin/done/oidc?code=x&state={state}").text
    assert visitor.open("/signin/with/nothing").status_code == 404


def test_github_signs_in_by_number_and_verified_primary_address(sso: ServerProcess, github: GitHub) -> None:
    visitor = Visitor(sso)
    assert "/en/keys" in visitor.open("/signin/with/github").url
    user_id = number_of(sso, "octocat@example.com")
    assert sso.read(lambda c: identities.find(c, github.url, "583231")) == user_id
    assert github.tokens[-1]["code_verifier"]
    # A new address at GitHub is still the same user.
    github.emails = [{"email": "new@example.com", "primary": True, "verified": True}]
    again = Visitor(sso)
    assert "octocat@example.com" in again.open("/signin/with/github").text
    # Another user there who has the address of a user here.
    github.user, github.emails = {"id": 7}, [{"email": "octocat@example.com", "primary": True, "verified": True}]
    assert "An account with this address exists" in Visitor(sso).open("/signin/with/github").text
    github.emails = [{"email": "third@example.com", "primary": True, "verified": False}]
    assert "has not verified" in Visitor(sso).open("/signin/with/github").text


def test_the_only_way_to_sign_in_is_not_disconnected(sso: ServerProcess, github: GitHub) -> None:
    github.user, github.emails = {"id": 99}, [{"email": "only@example.com", "primary": True, "verified": True}]
    visitor = Visitor(sso)
    visitor.open("/signin/with/github")
    visitor.open("/account")
    visitor.submit("/account/disconnect")
    assert "This is your only way to sign in." in visitor.page.text


def test_without_passwords_only_the_provider_signs_in(github: GitHub, tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {
        "MINITOOLAI_PASSWORD_SIGNIN": "0", "MINITOOLAI_GITHUB_CLIENT_ID": "gh", "MINITOOLAI_GITHUB_URL": github.url,
        "MINITOOLAI_GITHUB_CLIENT_SECRET": "hush", "MINITOOLAI_TRIES_FACTOR": "1000",
    }  # fmt: skip
    with ServerProcess(tmp_path_factory.mktemp("closed"), catalog=CATALOG, env=env) as server:
        new_user(server, "old@example.com")
        visitor = Visitor(server)
        page = visitor.open("/signin")
        assert 'name="password"' not in page.text
        for path in ("/signup", "/reset", "/reset/new", "/confirm"):
            assert visitor.open(path).status_code == 404, path
        visitor.open("/signin")
        token = visitor.fields("/theme")["csrf"]
        sent = {"csrf": token, "email": "old@example.com", "password": PASSWORD}
        for cookie in ("", "x"):
            visitor.cookies.set("pending", cookie, domain="127.0.0.1", path="/")
            reply = visitor.post(visitor.url("/signin"), data=sent, allow_redirects=False, timeout=20)
            assert reply.status_code == 404
        # An old user proves the password once, after the provider.
        github.user, github.emails = {"id": 5}, [{"email": "old@example.com", "primary": True, "verified": True}]
        visitor = Visitor(server)
        assert "An account with this address exists" in visitor.open("/signin/with/github").text
        visitor.submit("/signin", email="old@example.com", password=PASSWORD)
        visitor.submit("/account/connect")
        assert "You can sign in this way from now on." in visitor.page.text
        assert "/en/keys" in Visitor(server).open("/signin/with/github").url
        # E-mails lead to a page that there is.
        visitor.open("/account")
        visitor.submit("/account/password", password_old=PASSWORD, password="another long password")
        letter = letters(server, "old@example.com")[-1]
        assert "/en/reset" not in letter
        assert "/en/account" in letter
        visitor.open("/account")
        visitor.submit("/account/email", email="new@example.com", password_email="another long password")
        visitor.open(last_link(server, "old@example.com"))
        assert "Set a new password now." in visitor.submit("/account/email/confirm/stop").text
