"""What programs read: Markdown of the public pages, llms.txt, the guide as one text, the skill."""

from __future__ import annotations

import gzip
import html
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import minitoolai
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.portal.pages.public.docs import SECTIONS
from minitoolai.portal.pages.public.llms import PATHS
from minitoolai.portal.rendering.highlight import AGENT_TABS, FOLDER, TABS, plain_example, tabs_of
from minitoolai.portal.request import MARKDOWN_PATHS, markdown_path
from tests.support import house
from tests.support.browse import Visitor
from tests.support.server import ServerProcess

SHIPPED = Path(minitoolai.__file__).with_name("catalog.toml")
#: Public pages that are nothing but a form.
FORMS = {"/signup", "/signin", "/reset", "/search"}
#: Samples on the front page, on the pages of models, and on that of the rate limits.
ELSEWHERE = {"home.curl", "embeddings.curl", "retry.python"}
FENCE = re.compile(r"^(`{3,})\w*\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the shipped catalog, which has every kind of model."""
    env = {"MINITOOLAI_OPENAI_API_KEY": "sk-standin"}
    with ServerProcess(tmp_path_factory.mktemp("llms"), catalog=SHIPPED.read_text(), env=env) as server:
        yield server


def get(server: ServerProcess, path: str) -> str:
    answer = requests.get(server.url + path, timeout=20)
    assert answer.status_code == 200, path
    answer.encoding = "utf-8"
    return answer.text


def outside_listings(text: str) -> str:
    return re.sub(r"(`+)[^`].*?\1", "", FENCE.sub("", text))


def test_every_public_page_has_a_version_in_markdown() -> None:
    assert {*MARKDOWN_PATHS, "/reference/post-v1-messages"} == set(house.OPEN) - FORMS


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("path", [*MARKDOWN_PATHS, "/reference/post-v1-messages"])
def test_the_markdown_has_the_title_and_headings_of_the_page_and_no_tags(
    shipped: ServerProcess, lang: str, path: str
) -> None:
    page = get(shipped, f"/{lang}{path}")
    address = re.search(r'<link rel="alternate" type="text/markdown" href="([^"]+)">', page)
    assert address
    assert address[1] == f"{shipped.url}/{lang}{markdown_path(path)}"
    text = get(shipped, f"/{lang}{markdown_path(path)}")
    plain = [re.sub("<[^>]+>", "", title) for title in re.findall(r"<h[1-3][^>]*>(.*?)</h[1-3]>", page)]
    titles = [
        re.sub(r"\[(.*)\]\(.*\)", r"\1", title)
        for title in re.findall(r"^(?:\d\. )?#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    ]
    assert titles == [html.unescape(title) for title in plain]
    assert text.startswith(f"# {html.unescape(plain[0])}\n")
    assert not re.search(r"</?[a-zA-Z]|&[a-z]+;", outside_listings(text))
    assert "\n\n\n" not in FENCE.sub("x", text)


def test_the_markdown_of_a_page_says_what_the_page_says(shipped: ServerProcess) -> None:
    german = translations("de").gettext
    text = get(shipped, "/de/docs.md")
    for title in SECTIONS.values():
        assert f"\n## {german(title)}\n" in text
    assert "| `steps` | 1 – 8 | `4` |" in text
    prices = get(shipped, "/de/prices.md")
    assert re.search(r"\| gpt-4o \| 128\.000 Tokens \| 2,50\s\$ \| 10,00\s\$ \|", prices)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_listings_are_the_samples_of_the_guide(shipped: ServerProcess, lang: str) -> None:
    found = [code for _, code in FENCE.findall(get(shipped, f"/{lang}/docs.md"))]
    samples = {file.name: plain_example(file.name, shipped.url) for file in FOLDER.iterdir()}
    missing = [name for name, code in samples.items() if code not in found and name not in ELSEWHERE]
    assert missing == []
    others = {"Authorization: Bearer sk-…", "Idempotency-Key: order-4711"}
    assert set(found) - set(samples.values()) == others


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_guide_has_a_tab_for_every_agent_in_every_language(shipped: ServerProcess, lang: str) -> None:
    page = get(shipped, f"/{lang}/docs")
    for tab, title in AGENT_TABS.items():
        assert f'<label for="agents-t-{tab}">{title}</label>' in page
        assert f'<code id="agents-{tab}">' in page


def test_every_tab_has_a_rule_that_shows_it() -> None:
    styles = (Path(minitoolai.__file__).parent / "portal" / "static" / "guide.css").read_text()
    for number in range(1, max(len(TABS), len(tabs_of("agents"))) + 1):
        assert f"input:nth-of-type({number}):checked ~ .listing:nth-of-type({number})" in styles


def test_links_in_llms_txt_resolve_and_lead_to_markdown_or_text(shipped: ServerProcess) -> None:
    text = get(shipped, "/llms.txt")
    assert re.match(r"# MiniToolAI\n\n> \S.+\n\n", text)
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert len(links) == len(re.findall("^- ", text, re.MULTILINE))
    for link in links:
        answer = requests.get(link, timeout=20)
        assert (answer.status_code, link) == (200, link)
        assert answer.headers["content-type"].startswith(("text/markdown", "text/plain", "application/json"))
    pages = ("/docs.md", "/limits.md", "/models.md", "/prices.md", "/status.md", "/check.md", "/changelog.md")
    wanted = {f"{shipped.url}/{lang}{path}" for lang in LANGUAGES for path in pages}
    assert wanted <= set(links)


def test_links_in_markdown_are_absolute_and_resolve(shipped: ServerProcess) -> None:
    links = set()
    for path in [*(f"/es{path}" for path in MARKDOWN_PATHS.values()), "/SKILL.md"]:
        text = outside_listings(get(shipped, path))
        links |= set(re.findall(r"\]\(([^)]+)\)", text)) | set(re.findall(r"http://[^\s)]+[\w]", text))
    assert len(links) > 8
    for link in links:
        assert link.startswith(shipped.url)
        assert requests.get(link, timeout=20).status_code == 200, link


def test_the_guide_as_one_text_is_the_markdown_of_the_guide(shipped: ServerProcess) -> None:
    assert get(shipped, "/llms-full.txt") == get(shipped, "/en/docs.md")


def test_the_skill_has_front_matter_and_samples_of_the_guide(shipped: ServerProcess) -> None:
    text = get(shipped, "/SKILL.md")
    front = re.match(r"---\nname: ([a-z0-9]+(?:-[a-z0-9]+)*)\ndescription: ([^\n]+)\n---\n\n# ", text)
    assert front
    assert len(front[1]) <= 64
    assert 0 < len(front[2]) <= 1024
    # A colon and a space, or a space and a number sign, would not be plain text in YAML.
    assert not re.search(r": | #", front[2])
    found = {code for _, code in FENCE.findall(text)}
    assert found == {plain_example(f"{name}.curl", shipped.url) for name in ("chat", "image", "poll", "speech")}
    for model in (name for kind in ("chat", "image", "speech") for name in tomllib.loads(SHIPPED.read_text())[kind]):
        assert f"`{model}`" in text
    assert "/SKILL.md" in get(shipped, "/llms.txt")
    assert 'href="/SKILL.md"' in get(shipped, "/tr/docs")


def test_a_skill_leaves_out_what_the_server_lacks(server: ServerProcess) -> None:
    text = get(server, "/SKILL.md")
    assert "## Chat" in text
    assert "`fake-chat`" in text
    assert "## Images" not in text
    assert "\n\n\n" not in text


def test_samples_for_agents_name_models_that_the_server_has(server: ServerProcess) -> None:
    text = get(server, "/en/docs.md")
    section = text[text.index("## Coding agents") : text.index("## Text to image")]
    assert "gpt-4" not in section
    assert 'aider --model "openai/fake-chat"' in section
    assert 'export ANTHROPIC_DEFAULT_HAIKU_MODEL="fake-chat"' in section


def test_markdown_has_nothing_private_and_no_cookies(member: Visitor, server: ServerProcess, email: str) -> None:
    member.open("/keys")
    member.submit("/keys", name="laptop")
    for path in [*(f"/en{path}" for path in MARKDOWN_PATHS.values()), *(f"/{path}" for path in PATHS)]:
        answer = member.get(server.url + path, timeout=20)
        visitors = requests.get(server.url + path, timeout=20)
        assert answer.content == visitors.content, path
        assert email not in answer.text
        assert "laptop" not in answer.text
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = "markdown" if path.endswith(".md") else "plain"
        assert answer.headers["content-type"] == f"text/{kind}; charset=utf-8"


def test_markdown_is_compressed_on_request_and_has_a_head(server: ServerProcess) -> None:
    answer = requests.get(server.url + "/pt/docs.md", headers={"accept-encoding": "gzip"}, stream=True, timeout=20)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-language"] == "pt"
    assert gzip.decompress(answer.raw.read(decode_content=False)).startswith(b"# ")
    for path in ("/pt/docs.md", *(f"/{path}" for path in PATHS)):
        head = requests.head(server.url + path, timeout=20)
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/en/docs.md", *(f"/{path}" for path in PATHS)])
def test_an_invalid_host_is_refused_because_links_are_built_from_it(server: ServerProcess, path: str) -> None:
    refused = requests.get(server.url + path, headers={"host": "evil.example/<x>"}, timeout=20)
    assert refused.status_code == 400


@pytest.mark.parametrize("path", ["/en/keys.md", "/en/signin.md", "/en/docs.md/x", "/en/nothing.md", "/xx/docs.md"])
def test_other_pages_have_no_markdown(server: ServerProcess, path: str) -> None:
    assert requests.get(server.url + path, timeout=20).status_code == 404
