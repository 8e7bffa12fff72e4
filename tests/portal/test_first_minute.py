"""The first minute of a customer in a real browser, in every language: from the sign-up to a paid answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from minitoolai.portal.error_words import WORDS
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.portal.steps import QUICK_TABS
from tests.portal.browser.test_browser import watched
from tests.portal.test_journey import CATALOG
from tests.support.browse import PASSWORD, Visitor, last_link, new_user
from tests.support.programs import program
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
DONE = "#first-steps li.done"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("minute")
    with ServerProcess(folder, catalog=CATALOG, env={"MINITOOLAI_TRIES_FACTOR": "1000"}) as server:
        yield server


def sign_up(page: Page, house: ServerProcess, lang: str, email: str) -> None:
    """Sign up and confirm, up to the keys page with the first steps."""
    words = translations(lang).gettext
    page.goto(f"{house.url}/{lang}/signup")
    page.locator("#email").fill(email)
    page.locator("#password").fill(PASSWORD)
    page.locator("main button").click()
    expect(page.locator("h1")).to_have_text(words("No mail server is set up"), timeout=20_000)
    link = last_link(house, email)
    assert link.startswith(f"/{lang}/")
    page.goto(house.url + link)
    page.locator("main button").click()
    expect(page).to_have_url(f"{house.url}/{lang}/keys")
    expect(page.locator("#first-steps li")).to_have_count(3)
    expect(page.locator(DONE)).to_have_count(0)


def create_key(page: Page, house: ServerProcess) -> str:
    """Create a key on the keys page, and return it. The quick start has it, and nothing else keeps it."""
    page.locator("#name").fill("first")
    page.locator("form.keys-form button").click()
    key = page.locator("#new-key").inner_text()
    expect(page.locator(DONE)).to_have_count(1)
    for tab in QUICK_TABS:
        text = page.locator(f"#chat-{tab}").text_content() or ""
        assert key in text
        assert f"{house.url}/v1/chat/completions" in text
        assert "sk-…" not in text
    assert key not in page.url
    assert key not in house.log.read_text()
    return key


def top_up(page: Page, house: ServerProcess) -> None:
    page.locator("#code").fill(house.command("voucher", "create", "1.00").stdout.strip())
    page.locator('form[action$="/topup/voucher"] button').click()
    expect(page).to_have_url(re.compile("/balance$"))


def balance(house: ServerProcess, email: str) -> str:
    found = re.match(r"balance \$(\S+) ", house.command("balance", email).stdout)
    assert found
    return found[1]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_first_minute_with_scripts(browser: Browser, house: ServerProcess, lang: str) -> None:
    words, email = translations(lang).gettext, f"first-{lang}@example.com"
    context = browser.new_context()
    page = context.new_page()
    wrong = watched(page, house)
    sign_up(page, house, lang, email)
    create_key(page, house)
    expect(page.locator("#quick-start .note")).to_contain_text(words("Top up"))
    page.locator(f'#first-steps a[href="/{lang}/studio"]').click()
    expect(page.locator("#empty-balance")).to_be_visible()
    page.wait_for_load_state()  # before that, no script handles the click
    page.locator("#message").fill("Hello")
    page.locator("#send").click()
    # The refusal is in the language of the page, with a button to what helps, and the message is still there.
    refused = page.locator("#error")
    expect(refused).to_contain_text(words(WORDS["insufficient_balance"]), timeout=20_000)
    assert lang == "en" or WORDS["insufficient_balance"] not in refused.inner_text()
    assert page.locator("#message").input_value() == "Hello"
    remedy = refused.get_by_role("link", name=words("Top up"))
    expect(remedy).to_have_attribute("href", f"/{lang}/topup")
    remedy.click()
    top_up(page, house)
    page.goto(f"{house.url}/{lang}/studio")
    expect(page.locator("#empty-balance")).to_have_count(0)
    page.locator("#message").fill("Hello")
    page.locator("#send").click()
    expect(page.locator("#talk .assistant .words")).not_to_be_empty(timeout=20_000)
    expect(page.locator("#cost")).to_contain_text("gen-", timeout=20_000)
    expect(refused).to_be_hidden()
    assert 0 < float(balance(house, email)) < 1
    page.goto(f"{house.url}/{lang}/keys")
    expect(page.locator("#first-steps")).to_have_count(0)
    # The browser itself reports the 402 on its console.
    assert [line for line in wrong if "402" not in line] == []
    context.close()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_first_minute_without_scripts(browser: Browser, house: ServerProcess, lang: str, tmp_path: Path) -> None:
    email = f"plain-{lang}@example.com"
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_up(page, house, lang, email)
    create_key(page, house)
    command = page.locator("#chat-curl").text_content() or ""
    page.locator(f'#quick-start a[href="/{lang}/topup"]').click()
    top_up(page, house)
    done = subprocess.run([program("bash"), "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "data: [DONE]" in done.stdout
    eventually(lambda: 0 < float(balance(house, email)) < 1)
    page.goto(f"{house.url}/{lang}/keys")
    expect(page.locator("#first-steps")).to_have_count(0)
    context.close()


def test_the_first_steps_can_be_hidden_for_one_account(house: ServerProcess) -> None:
    visitor = new_user(house, "hider@example.com")
    assert 'id="first-steps"' in visitor.page.text
    visitor.submit("/keys/hide-steps")
    assert 'id="first-steps"' not in visitor.page.text
    other = new_user(house, "other@example.com")
    other.cookies.set("steps", visitor.cookies["steps"])
    assert 'id="first-steps"' in other.open("/keys").text


def test_credit_of_the_operator_ticks_the_step(house: ServerProcess) -> None:
    visitor = new_user(house, "gifted@example.com")
    house.command("credit", "grant", "gifted@example.com", "1.00", "--reason", "welcome")
    assert len(re.findall('<li class="done">', visitor.open("/keys").text)) == 1


def test_the_quick_start_names_a_model_that_the_key_may_use(tmp_path: Path) -> None:
    catalog = CATALOG + CATALOG[CATALOG.index("[chat") :].replace("gpt-4o-mini", "other-model")
    with ServerProcess(tmp_path, catalog=catalog) as server:
        visitor = new_user(server, "chooser@example.com")
        token = visitor.fields("/keys")
        answer = visitor.post(visitor.url("/keys"), data=token | {"name": "x", "model": "other-model"}, timeout=20)
        assert "other-model" in answer.text[answer.text.index('id="quick-start"') :]
        assert (
            "gpt-4o-mini" not in answer.text[answer.text.index('id="quick-start"') : answer.text.index("first-steps")]
        )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_studio_explains_every_code_in_the_language_of_the_page(
    browser: Browser, house: ServerProcess, lang: str
) -> None:
    visitor = new_user(house, f"codes-{lang}@example.com")
    context = browser.new_context()
    page = _studio(context, visitor, lang)
    sent = {"code": "", "param": None}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": _error(sent)}))
    for code, english in WORDS.items():
        sent["code"] = code
        page.locator("#message").fill("x")
        page.locator("#send").click()
        expect(page.locator("#error")).to_contain_text(translations(lang).gettext(english))
        assert "English message" not in page.locator("#error").inner_text()
        expect(page.locator("#stop")).to_be_hidden()
    sent.update(code="invalid_request", param="temperature")
    page.locator("#send").click()
    expect(page.locator("#error")).to_contain_text("(temperature)")
    context.close()


def _error(sent: dict[str, str | None]) -> dict[str, str | None]:
    return {"message": "English message", "type": "invalid_request_error", **sent}


def _studio(context: BrowserContext, visitor: Visitor, lang: str) -> Page:
    names = ("session", "browser")
    context.add_cookies([{"name": n, "value": visitor.cookies[n], "url": visitor.server.url} for n in names])  # type: ignore[list-item]
    page = context.new_page()
    page.goto(f"{visitor.server.url}/{lang}/studio")
    return page
