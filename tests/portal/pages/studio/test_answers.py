"""Answers of models as Markdown: shown well, and never able to run a script, load an image or style the page.

An upstream that repeats the message lets each test decide what the model says. The same answers go through the script
of the page, which shows streams, and through the server, which shows answers to browsers without JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from minitoolai.billing import payments
from minitoolai.core.clock import SystemClock
from minitoolai.portal.rendering.prose import render_answer
from tests.support import catalogs, manners
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess
from tests.support.team import number_of
from tests.support.upstream import Exchange, Upstream

EMAIL = "answers@example.com"
#: What a model could try.
HOSTILE = (
    "<script>document.title='broken'</script>",
    "<img src=x onerror=document.title='broken'>",
    "<svg onload=document.title='broken'><style>*{display:none}</style>",
    "![pixel](https://evil.example/pixel.png)",
    "![pixel][1]\n\n[1]: https://evil.example/pixel.png",
    "[click](javascript:document.title='broken')",
    "[click](JaVaScRiPt&#58;document.title='broken')",
    "[click](data:text/html,<script>document.title='broken'</script>)",
    "[click](vbscript:x) [click]( javascript:x ) [click](\tjavascript:x)",
    "<https://evil.example> <javascript:document.title='broken'>",
    "[a](https://evil.example/\"onmouseover=\"document.title='broken')",
    "[a](https://evil.example \"' onclick='document.title=1\")",
    "```html\n<script>document.title='broken'</script>\n```",
    "```\"><script>document.title='broken'</script>\nx\n```",
    "`<img src=x onerror=document.title='broken'>`",
    "| <script>document.title='broken'</script> | b |\n|---|---|\n"
    "| <img src=x onerror=document.title=1> | [x](javascript:1) |",
    "<style>body{background:url(https://evil.example/x)}</style>",
    "<iframe src=https://evil.example></iframe><object data=x></object><base href=https://evil.example>",
    "<form action=https://evil.example><input name=password><button>Sign in</button></form>",
    "<a href='/en/signout' ping='https://evil.example'>x</a> [x](/en/account/leave) [x](//evil.example/a)",
    "> " * 3000 + "<b>deep</b>",
    "- " * 3000 + "deep",
    "*" * 5000 + "a" + "*" * 5000,
    "[" * 5000 + "](x)" * 100,
    "# <h1 style=position:fixed>title</h1>\n\n<link rel=stylesheet href=https://evil.example/a.css>",
    "\u202e[moc.elpmaxe](https://evil.example)\u202c &lt;script&gt; &#60;script&#62;document.title=1&#60;/script&#62;",
)
FINE = """# Title

A **bold**, an *emphasis*, some `code <b>` and a [link](https://example.com/a_(b)?c=1&d=2).

1. one
2. two
   - nested

> quoted

```python
if a < b:
    print("&")
```

| left | right |
|------|-------|
| 1 | `2` |

snake_case_name and 2 * 3 * 4
"""
#: Everything that an answer may be made of.
ELEMENTS = {
    "a", "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s",
    "hr", "br", "table", "thead", "tbody", "tr", "th", "td", "div", "span", "button",
}  # fmt: skip


async def echo(exchange: Exchange) -> None:
    """Answer with the message, in pieces of seven characters if it is streamed."""
    text = exchange.body["messages"][-1]["content"]
    await manners.answer([text[at : at + 7] for at in range(0, len(text), 7)])(exchange)


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with Upstream(echo) as upstream:
        catalog = catalogs.upstream("echo", upstream.base_url)
        env = {"MINITOOLAI_TRIES_FACTOR": "1000"}
        with ServerProcess(tmp_path_factory.mktemp("answers"), catalog=catalog, env=env) as server:
            yield server


@pytest.fixture(scope="module")
def person(echoing: ServerProcess) -> Visitor:
    member = new_user(echoing, EMAIL)
    account = number_of(echoing, EMAIL)
    echoing.write(lambda c: payments.grant(c, SystemClock(), account, 50 * 10**9, reason="test"))
    return member


@pytest.fixture
def page(browser: Browser, person: Visitor) -> Iterator[Page]:
    """A signed-in page. In the end, nothing was asked of another host, and the policy had nothing to refuse."""
    context = browser.new_context()
    for name in ("session", "browser"):
        context.add_cookies([{"name": name, "value": person.cookies[name], "url": person.server.url}])
    page = context.new_page()
    wrong: list[str] = []
    own = (person.server.url, "data:", "blob:")
    page.on("request", lambda sent: None if sent.url.startswith(own) else wrong.append(sent.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    yield page
    assert wrong == []
    context.close()


#: Elements, attributes and addresses inside the first answer.
LOOK = """() => {
  const all = [...document.querySelectorAll('#talk .words *')];
  return {
    names: [...new Set(all.map(one => one.localName))],
    attributes: [...new Set(all.flatMap(one => one.getAttributeNames()))],
    links: all.filter(one => one.localName === 'a').map(one => [one.protocol, one.rel, one.host]),
  };
}"""


def check(page: Page) -> None:
    """The answer on the page consists of harmless elements only."""
    seen = page.evaluate(LOOK)
    assert set(seen["names"]) <= ELEMENTS
    assert set(seen["attributes"]) <= {"href", "rel", "target", "class", "tabindex", "role", "aria-label", "start"}
    for protocol, rel, _ in seen["links"]:
        assert protocol in ("http:", "https:", "mailto:")
        assert rel == "noopener noreferrer nofollow"
    assert page.title() != "broken"


def ask(page: Page, server: ServerProcess, text: str) -> None:
    page.goto(server.url + "/en/studio")
    page.locator("#message").evaluate("(field, text) => { field.value = text; }", text)
    page.locator("#send").click()
    expect(page.locator("#talk .measured")).to_contain_text("$", timeout=20_000)


@pytest.mark.acceptance
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_streamed_answer_does_no_harm(page: Page, echoing: ServerProcess, text: str) -> None:
    ask(page, echoing, text)
    check(page)
    assert page.locator("#talk img").count() == 0


@pytest.mark.acceptance
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_answer_without_javascript_does_no_harm(person: Visitor, browser: Browser, text: str) -> None:
    person.open("/studio")
    reply = person.submit("/studio/chat", model="echo", message=text[:10_000])
    assert reply.status_code == 200
    # Look at it with scripts that only the test runs: the page's own are blocked by the policy of the response.
    page = browser.new_page()
    page.set_content(f"<div id=talk>{words(reply.text)}</div>")
    check(page)
    assert page.locator("#talk img").count() == 0
    page.close()


def words(text: str) -> str:
    """The answer in a page that the server rendered."""
    found = re.search(r'<div class="words">.*?</div><p class="measured">', text, re.DOTALL)
    assert found
    return found[0]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_server_renders_harmless_elements_only(text: str) -> None:
    html = str(render_answer(text))
    assert set(re.findall(r"<([a-z0-9]+)", html)) <= ELEMENTS
    for tag in re.findall(r"<a [^>]*>", html):
        assert re.fullmatch(
            r'<a href="(?:https?://|mailto:)[^"]*" rel="noopener noreferrer nofollow" target="_blank">', tag
        )
    assert not re.search(r"<[^>]*\s(?:on\w+|style|src|srcset)=", html)


@pytest.mark.acceptance
def test_both_ways_show_the_same_structure(page: Page, person: Visitor, echoing: ServerProcess) -> None:
    ask(page, echoing, FINE)
    place = page.locator("#talk .words")
    expect(place.locator("h3")).to_have_text("Title")
    assert place.locator("strong").all_inner_texts() == ["bold"]
    assert place.locator("p em").all_inner_texts() == ["emphasis"]
    assert place.locator("p code").first.inner_text() == "code <b>"
    assert place.locator("a").get_attribute("href") == "https://example.com/a_(b)?c=1&d=2"
    assert place.locator("ol > li").count() == 2
    assert place.locator("ol ul > li").inner_text() == "nested"
    assert place.locator("blockquote").inner_text().strip() == "quoted"
    assert place.locator("pre").inner_text().rstrip("\n") == 'if a < b:\n    print("&")'
    assert place.locator("td").all_inner_texts() == ["1", "2"]
    assert "snake_case_name and 2 * 3 * 4" in place.inner_text()
    person.open("/studio")
    html = words(person.submit("/studio/chat", model="echo", message=FINE).text)
    for part in ("<h3>Title", "<strong>bold", "<em>emphasis", "<code>code &lt;b&gt;", "<ol>", "<li>nested", "<td>1"):
        assert part in html, part


@pytest.mark.acceptance
def test_enter_sends_and_shift_enter_breaks_the_line(page: Page, echoing: ServerProcess) -> None:
    page.goto(echoing.url + "/en/studio")
    field = page.locator("#message")
    field.fill("one")
    field.press("Shift+Enter")
    field.type("two")
    assert field.input_value() == "one\ntwo"
    # Enter that ends the input of a character, as Chromium and Safari send it.
    for event in ('{key: "Enter", isComposing: true}', '{key: "Enter", keyCode: 229}'):
        field.evaluate(f"field => field.dispatchEvent(new KeyboardEvent('keydown', {{bubbles: true, ...{event}}}))")
    expect(page.locator("#talk .user")).to_have_count(0)
    field.press("Enter")
    expect(page.locator("#talk .user")).to_have_count(1)
    expect(page.locator("#talk .words")).to_have_text(re.compile("one"))
    expect(page.locator("#talk .user span")).to_have_text("one\ntwo", use_inner_text=True)


def test_a_form_without_javascript_says_why_nothing_was_answered(person: Visitor) -> None:
    person.open("/studio")
    empty = person.submit("/studio/chat", model="echo", message=" ")
    assert (empty.status_code, "Write a message." in empty.text) == (422, True)
    refused = person.submit("/studio/chat", model="echo", message="Hi", limit="999999999")
    assert refused.status_code == 400
    assert "max_completion_tokens" in refused.text
    wrong = person.submit("/studio/chat", model="echo", message="Hi", temperature="hot")
    assert (wrong.status_code, "temperature" in wrong.text) == (400, True)
    poor = new_user(person.server, "poor-answers@example.com")
    poor.open("/studio")
    reply = poor.submit("/studio/chat", model="echo", message="Hi")
    assert reply.status_code == 402
    assert "/en/topup" in reply.text


def test_an_answer_without_javascript_is_charged_as_it_says(person: Visitor) -> None:
    person.open("/studio")
    reply = person.submit("/studio/chat", model="echo", message="Hello there", developer="Be kind.")
    shown = re.search(r'<p class="measured">.*?\$([\d.]+)</p>', reply.text, re.DOTALL)
    assert shown
    account = number_of(person.server, EMAIL)
    spent = person.server.read(
        lambda c: c.execute("SELECT settled FROM holds WHERE account_id = ? ORDER BY id DESC LIMIT 1", (account,))
    )
    assert spent[0][0] == round(float(shown[1]) * 10**9) > 0
