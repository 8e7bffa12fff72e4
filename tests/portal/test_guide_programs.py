"""Run the code samples of the guide, copied from the page, with the real interpreters."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

import minitoolai
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.rendering.highlight import AGENT_MODEL, AGENT_TABS, TABS, tabs_of
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs, manners
from tests.support.programs import program as installed
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Upstream

pytestmark = pytest.mark.acceptance

RUNS = {
    "python": (sys.executable, "py"),
    "openai": (sys.executable, "py"),
    "anthropic": (sys.executable, "py"),
    "php": ("php", "php"),
    "javascript": ("node", "mjs"),
    "curl": ("bash", "sh"),
}
Run = Callable[..., str]
SHIPPED = Path(minitoolai.__file__).with_name("catalog.toml")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def guide_server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The shipped catalog and embeddings: texts come from a stand-in, pictures and voices from the embedded engines."""
    env = {
        "MINITOOLAI_REQUESTS_PER_MINUTE": "5000",
        "MINITOOLAI_IMAGE_QUEUE": "20",
        "MINITOOLAI_OPENAI_API_KEY": "sk-standin",
        "MINITOOLAI_OPENAI_BASE_URL": upstream.base_url,
        "MINITOOLAI_LLAMA_THREADS": "1",
    }
    # The stand-in has a private address, so nothing is fetched for it unless it is said to fetch itself.
    shipped = SHIPPED.read_text().replace("needs_key = true", "fetches_images = true\nneeds_key = true", 1)
    catalog = shipped + '\n[embedding.vectors]\ninput = "0.02"\ncontext = 8191\nengines = ["openai"]\n'
    with ServerProcess(tmp_path_factory.mktemp("guide"), catalog=catalog, env=env) as server:
        yield server


@pytest.fixture
def account(guide_server: ServerProcess) -> Iterator[Account]:
    """A customer with $5; afterwards the books add up."""
    account = guide_server.account()
    yield account
    account.settled()
    assert guide_server.read(broken_invariants) == {}


@pytest.fixture(scope="module")
def page(guide_server: ServerProcess) -> str:
    """The guide as a visitor's browser gets it."""
    return requests.get(guide_server.url + "/en/docs", timeout=20).text


def shown(page: str, name: str) -> str:
    """A listing as it is copied."""
    found = re.search(rf'<code id="{name}">(.*?)</code>', page, re.DOTALL)
    assert found, name
    return html.unescape(re.sub("<[^>]+>", "", found[1]))


@pytest.fixture
def run(page: str, account: Account, tmp_path: Path) -> Run:
    """Run a listing of the page with a key; what it prints."""

    def run(name: str, key: str = "", fails: bool = False, **words: str) -> str:
        code = shown(page, name).replace("sk-…", key or account.key)
        for word, meant in words.items():
            code = code.replace(word, meant)
        interpreter, ending = RUNS[name.rpartition("-")[2]]
        file = tmp_path / f"example.{ending}"
        file.write_text(code)
        command = [installed(interpreter), str(file)]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MINITOOLAI_", "OPENAI_"))}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=120, check=False
        )
        assert fails or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def test_every_topic_has_a_sample_in_every_programming_language() -> None:
    assert all(tabs_of(topic) == TABS for topic in ("chat", "image", "speech"))


@pytest.mark.parametrize("tab", TABS)
def test_the_chat_sample_prints_the_response(tab: str, run: Run, upstream: Upstream, account: Account) -> None:
    upstream.behave = manners.answer(["Ätna, ", "雪 ", "🌋"])
    said = run(f"chat-{tab}")
    assert ("雪 " if tab == "curl" else "Ätna, 雪 🌋") in said
    sent = upstream.last.body
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.7, 200)
    assert [message["role"] for message in sent["messages"]] == ["developer", "user"]
    assert account.settled() < 5_000_000_000


@pytest.mark.parametrize(
    "name",
    [*(f"chat-{tab}" for tab in TABS), "image-python", "image-php", "image-javascript", "speech-python", "speech-php",
     "speech-javascript"],
)  # fmt: skip
def test_a_sample_prints_why_it_was_refused(name: str, run: Run) -> None:
    assert "Invalid API key" in run(name, key="sk-mt-wrong", fails=True)


@pytest.mark.parametrize("tab", TABS)
def test_the_image_sample_writes_the_image(tab: str, run: Run, account: Account, tmp_path: Path) -> None:
    said = run(f"image-{tab}")
    if tab == "curl":
        assert set(json.loads(said[said.index("{") : said.index("}") + 1])) == {"status", "jobid", "signature"}
        return
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert b"Steps: 4, Sampler: DPM++ SDE, CFG scale: 2" in picture
    assert b"Seed: 7, Size: 768x512" in picture
    assert b"Negative prompt: blurry" in picture
    assert account.settled() == 5_000_000_000 - 1_500_000


@pytest.mark.parametrize("tab", TABS)
def test_the_speech_sample_writes_audio(tab: str, run: Run, account: Account, tmp_path: Path) -> None:
    run(f"speech-{tab}")
    sound = (tmp_path / "morning.mp3").read_bytes()
    assert sound.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3"))
    assert len(sound) > 5000
    assert account.settled() == 5_000_000_000 - 15_000 * len("Good morning. The coffee is ready.")


def test_the_sample_for_anthropics_sdk_prints_the_response(run: Run, upstream: Upstream, account: Account) -> None:
    upstream.behave = manners.answer(["Ätna, ", "雪 ", "🌋"])
    assert "Ätna, 雪 🌋" in run("agents-anthropic")
    assert upstream.last.body["max_completion_tokens"] == 200
    assert "Invalid API key" in run("agents-anthropic", key="sk-mt-wrong", fails=True)
    assert account.settled() < 5_000_000_000


def test_the_lines_for_claude_code_are_those_that_are_tested(page: str) -> None:
    # tests/clients/test_claude_code.py runs it with these variables.
    lines = shown(page, "agents-claude").splitlines()
    names = {line.removeprefix("export ").partition("=")[0] for line in lines[:-1]}
    assert names <= set(re.findall(r'"(ANTHROPIC_\w+)"', Path("tests/support/claude_code.py").read_text()))
    assert lines[-1] == "claude"


def test_the_lines_for_codex_are_those_that_are_tested(page: str, guide_server: ServerProcess) -> None:
    # tests/clients/test_codex.py runs it with this file.
    settings = tomllib.loads(shown(page, "agents-codex"))
    assert settings["model_providers"]["minitoolai"]["base_url"] == guide_server.url + "/v1"
    assert settings["model"] in guide_models(guide_server, "chat")


def test_the_lines_for_agents_name_a_model_that_an_upstream_serves(tmp_path: Path, upstream: Upstream) -> None:
    # The shipped models are served by the embedded one, which is too small for an agent.
    mine = catalogs.claude("mine", upstream.base_url, model="claude-large")
    with ServerProcess(tmp_path, catalog=SHIPPED.read_text() + mine) as server:
        lines = shown(requests.get(server.url + "/en/docs", timeout=20).text, "agents-claude")
        assert lines.count('MODEL="claude-large"') == 2


def test_the_lines_for_opencode_are_json_after_the_name_of_the_file(page: str, guide_server: ServerProcess) -> None:
    name, _, text = shown(page, "agents-opencode").partition("\n")
    assert name.startswith("// ")
    settings = json.loads(text)
    (provider,) = settings["provider"]
    (model,) = settings["provider"][provider]["models"]
    assert settings["model"] == f"{provider}/{model}"
    assert model in guide_models(guide_server, "chat")
    assert settings["provider"][provider]["options"] == {"baseURL": guide_server.url + "/v1", "apiKey": "sk-…"}


@pytest.mark.parametrize("tab", ["continue", "librechat"])
def test_the_lines_for_agents_with_yaml_are_yaml(page: str, tab: str, guide_server: ServerProcess) -> None:
    settings = yaml.safe_load(shown(page, f"agents-{tab}"))
    entry = settings["models"][0] if tab == "continue" else settings["endpoints"]["custom"][0]
    model = entry["model"] if tab == "continue" else entry["models"]["default"][0]
    assert model in guide_models(guide_server, "chat")
    assert entry["apiBase" if tab == "continue" else "baseURL"] == guide_server.url + "/v1"
    assert entry["apiKey"] == "sk-…"


@pytest.mark.parametrize("tab", ["aider", "openwebui", "claude"])
def test_the_lines_for_agents_with_commands_are_shell(page: str, tab: str, tmp_path: Path) -> None:
    script = tmp_path / "agent.sh"
    script.write_text(shown(page, f"agents-{tab}"))
    done = subprocess.run([installed("bash"), "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("tab", [tab for tab in AGENT_TABS if tab not in ("claude", "anthropic")])
def test_the_lines_for_an_agent_have_the_base_url_the_key_and_a_model(
    page: str, tab: str, guide_server: ServerProcess
) -> None:
    lines = shown(page, f"agents-{tab}")
    assert guide_server.url + "/v1" in lines
    assert "sk-…" in lines
    assert AGENT_MODEL in lines


def test_the_vision_sample_sends_an_image(run: Run, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["A cat."])
    # An address, because names are resolved, and tests have no internet.
    assert "A cat." in run("vision-curl", **{"https://example.com": "https://93.184.216.34"})
    assert upstream.last.body["messages"][0]["content"][1]["image_url"] == {
        "url": "https://93.184.216.34/picture.jpg",
        "detail": "auto",
    }


def test_the_job_samples_poll_follow_and_cancel(page: str, run: Run, account: Account) -> None:
    fields = {"model": "dreamshaper", "prompt": "a red apple", "width": 256, "height": 256, "seed": 7}
    url = account.server.url + "/api/texttoimage/"
    job = requests.post(url, json=fields, headers=account.headers, timeout=20).json()
    # A demo model answers here, which the sample does not show.
    assert job.keys() - {"demo"} == json.loads(shown(page, "submitted")).keys()
    words = {"JOBID": str(job["jobid"]), "SIGNATURE": job["signature"]}
    followed = run("events-curl", **words)
    assert '"status":"success"' in followed
    assert "data: [DONE]" in followed
    said = run("poll-curl", **words)
    polled = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert polled.keys() - {"demo"} == json.loads(shown(page, "polled")).keys()
    assert '"status":"success"' in run("cancel-curl", **words)  # too late, and told so
    second = requests.post(url, json=fields | {"steps": 8}, headers=account.headers, timeout=20).json()
    cancelled = run("cancel-curl", JOBID=str(second["jobid"]), SIGNATURE=second["signature"])
    assert '"code":"cancelled"' in cancelled
    assert account.settled() == 5_000_000_000 - 1_500_000


def test_the_command_on_the_front_page_works(
    guide_server: ServerProcess, account: Account, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.behave = manners.answer(["Saturn."])
    front = requests.get(guide_server.url + "/en/", timeout=20).text
    (tmp_path / "home.sh").write_text(shown(front, "hello").replace("sk-…", account.key))
    done = subprocess.run(
        [installed("bash"), str(tmp_path / "home.sh")], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Saturn." in done.stdout


def test_the_balance_and_usage_samples_work(run: Run, account: Account) -> None:
    run("chat-curl")
    account.settled()
    said = run("account-curl")
    assert '"currency":"USD"' in said
    assert re.search(r"gpt-4o-mini,chat,1,\d+,\d+,0\.\d+", said)


def events(text: str) -> list[Any]:
    """The objects of a stream, then what ended it."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) if line.startswith("{") else line for line in lines]


def shape(value: Any) -> Any:
    """Names and kinds, in their order, without what is said."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items()]
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def test_the_streamed_response_is_shown_as_the_api_sends_it(page: str, account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["Saturn", "."])
    fields = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Which planet has the most moons?"}]}
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    url = account.server.url + "/v1/chat/completions"
    answer = requests.post(url, json=fields, headers=account.headers, timeout=20)
    answer.encoding = "utf-8"
    assert shape(events(shown(page, "streamed"))) == shape(events(answer.text))
    assert events(answer.text)[-1] == events(shown(page, "streamed"))[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("name", "path", "fields"),
    [
        ("refused", "/v1/chat/completions", {"messages": [{"role": "user", "content": "?"}], "temperature": 3}),
        ("refused-image", "/api/texttoimage/", {"model": "dreamshaper", "prompt": "a red apple", "steps": 9}),
    ],
)
def test_error_bodies_are_shown_as_the_api_sends_them(
    page: str, account: Account, name: str, path: str, fields: dict[str, Any]
) -> None:
    body = {"model": "gpt-4o-mini", **fields}
    answer = requests.post(account.server.url + path, json=body, headers=account.headers, timeout=20)
    assert answer.json() == json.loads(shown(page, name))


def test_the_host_of_the_reader_is_escaped_in_every_sample(
    guide_server: ServerProcess,
) -> None:
    other = requests.get(guide_server.url + "/en/docs", headers={"host": 'ai.test"><b>&'}, timeout=20).text
    assert "<b>&" not in other.replace("</b>", "")
    assert "ai.example.com" not in other


def test_every_image_parameter_is_documented(page: str, guide_server: ServerProcess) -> None:
    document = requests.get(guide_server.url + "/openapi.json", timeout=20).json()
    schema = document["paths"]["/api/texttoimage/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    section = page[page.index('id="text-to-image"') : page.index('id="jobs"')]
    explained = set(re.findall(r'<th scope="row"><code>(\w+)</code>', section))
    assert explained == set(schema["properties"])
    for name in [*schema["properties"]["scheduler"]["enum"][:-1], *guide_models(guide_server, "image")]:
        assert f"<code>{name}</code>" in section


def guide_models(server: ServerProcess, kind: str) -> list[str]:
    """What the API lists."""
    answer = requests.get(server.url + "/v1/models", headers=server.account().headers, timeout=20)
    return [model["id"] for model in answer.json()["data"] if model["kind"] == kind]


def test_prices_are_those_of_the_catalog(guide_server: ServerProcess, page: str) -> None:
    prices = requests.get(guide_server.url + "/en/prices", timeout=20).text
    answer = requests.get(guide_server.url + "/v1/models", headers=guide_server.account().headers, timeout=20)
    for model in answer.json()["data"]:
        for name, amount in model["price"].items() - {("currency", "USD")}:
            dollars = re.sub(r"(\.\d\d\d*?)0+$", r"\1", amount)
            for text in (page, prices):
                rows = [
                    row
                    for row in re.findall("<tr>(.*?)</tr>", text)
                    if re.search(f"[> ]{model['id']}[<, ]", row) and "$" in row
                ]
                # A price for some of the tokens has a row of its own.
                assert any(f"${dollars}<" in row for row in rows), (model["id"], name)


def test_limits_are_those_of_the_settings(page: str) -> None:
    assert "5,000 requests per minute" in page
    assert "up to 20 images in the queue" in page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_guide_is_small_in_every_language(guide_server: ServerProcess, lang: str) -> None:
    for path in ("docs", "prices", ""):
        assert len(requests.get(f"{guide_server.url}/{lang}/{path}", timeout=20).content) <= 60_000
