"""List the clients that are run, how, and the abilities of each. Tests and docs/reference/compatibility.md use it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import NODE, install_node, one_at_a_time, program

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
#: Not in requirements-dev.txt, because it needs an older openai package than the other clients.
LITELLM = HERE / "litellm.txt"
LITELLM_HOME = HERE.parents[1] / ".scratch" / "litellm"

#: Other clients that need other versions of some packages than the tests.
OTHERS = HERE.parents[1] / "requirements-clients.txt"
OTHERS_HOME = HERE.parents[1] / ".scratch" / "clients"

#: Abilities and their meaning.
ABILITIES = {
    "answer": "a plain response, with its usage",
    "stream": "the same as a stream",
    "tools": "a tool call, its result sent back, the final response",
    "schema": "a response that follows a strict JSON schema",
    "errors": "401, 402, 404, 400 and 429 become the client's own errors",
    "retry": "a 429 is retried, no sooner than `Retry-After` says",
    "headers": "`x-generation-id` can be read",
    "cancel": "a stream that is closed early is cancelled, and charged to that point",
    "models": "`/v1/models` is listed",
    "responses": "`/v1/responses`, plain and streamed",
    "completions": "`/v1/completions`",
    "embeddings": "`/v1/embeddings`",
}
_EVERY_SDK = ("answer", "stream", "tools", "schema", "errors", "retry", "headers", "cancel")
_OPENAI_ERRORS = {
    "401": "AuthenticationError",
    "402": "APIStatusError",
    "404": "NotFoundError",
    "400": "BadRequestError",
    "429": "RateLimitError",
}
_ANTHROPIC_ERRORS = {**_OPENAI_ERRORS, "402": "PaymentRequiredError"}
_EVERY_MESSAGES_SDK = (*_EVERY_SDK, "models")
_STATUS_AND_CODE = {
    "401": "401 invalid_api_key",
    "402": "402 insufficient_balance",
    "404": "404 model_not_found",
    "400": "400 invalid_request",
    "429": "429 rate_limit_exceeded",
}


@dataclass(frozen=True)
class Client:
    """One client. `command` is a function, because the client may have to be installed first."""

    title: str
    command: Callable[[], list[str]]
    version: Callable[[], str]
    abilities: tuple[str, ...]
    #: The error that the client raises for each status.
    errors: dict[str, str] = field(default_factory=lambda: _OPENAI_ERRORS)
    folder: Path = PROGRAMS


def _python(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, f"{name}.py"]


def _python_version(package: str) -> Callable[[], str]:
    from importlib.metadata import version

    return lambda: f"{package} {version(package)}"


def _litellm() -> str:
    """Return the Python that has LiteLLM; it is installed on first use."""
    return _environment(LITELLM_HOME, LITELLM)


def _others() -> str:
    """Return the Python that has the packages of requirements-clients.txt; they are installed on first use."""
    return _environment(OTHERS_HOME, OTHERS)


def _environment(home: Path, requirements: Path) -> str:
    """Return the Python of an environment with the packages of this file, each checked by its hash."""
    python, stamp, wanted = home / "bin" / "python", home / ".installed", requirements.read_text()
    with one_at_a_time(home):
        if not stamp.exists() or stamp.read_text() != wanted:
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, home], check=True, timeout=60)
            install = [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", requirements]
            subprocess.run(install, check=True, timeout=300)
            stamp.write_text(wanted)
    return str(python)


def _pinned(package: str) -> Callable[[], str]:
    def version() -> str:
        lines = [line for file in (OTHERS, LITELLM) for line in file.read_text().splitlines()]
        line = next(line for line in lines if line.startswith(f"{package}=="))
        return line.split()[0].replace("==", " ")

    return version


def _node(script: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        install_node()
        return [program("node"), f"{script}.mjs"]

    return command


def _node_version(*packages: str) -> Callable[[], str]:
    def version() -> str:
        install_node()
        ask = "for (const p of process.argv.slice(1)) console.log(p, JSON.parse(require('fs').readFileSync("
        ask += "`node_modules/${p}/package.json`)).version)"
        done = subprocess.run([program("node"), "-e", ask, *packages], cwd=NODE, capture_output=True, check=True)
        return ", ".join(done.stdout.decode().split("\n")[:-1])

    return version


def _first_line(name: str, words: int) -> Callable[[], str]:
    def version() -> str:
        done = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True)
        return " ".join(done.stdout.split()[:words])

    return version


CLIENTS = {
    "openai-python": Client("OpenAI, Python", _python("openai_sync"), _python_version("openai"), tuple(ABILITIES)),
    "openai-async": Client(
        "OpenAI, Python, asyncio",
        _python("openai_async"),
        _python_version("openai"),
        ("answer", "stream", "tools", "errors", "retry", "headers", "cancel", "responses"),
    ),
    "openai-node": Client(
        "OpenAI, Node",
        _node("openai"),
        _node_version("openai"),
        tuple(ABILITIES),
        {**_OPENAI_ERRORS, "402": "APIError"},
        NODE,
    ),
    "anthropic-python": Client(
        "Anthropic, Python",
        _python("anthropic_sync"),
        _python_version("anthropic"),
        _EVERY_MESSAGES_SDK,
        _ANTHROPIC_ERRORS,
    ),
    "anthropic-node": Client(
        "Anthropic, Node",
        _node("anthropic"),
        _node_version("@anthropic-ai/sdk"),
        _EVERY_MESSAGES_SDK,
        _ANTHROPIC_ERRORS,
        NODE,
    ),
    "langchain": Client(
        "LangChain, ChatOpenAI",
        _python("langchain_client"),
        _python_version("langchain-openai"),
        (*_EVERY_SDK, "responses", "embeddings"),
        {
            "401": "OpenAIAuthenticationError",
            "402": "APIStatusError",
            "404": "OpenAIModelNotFoundError",
            "400": "OpenAIInvalidRequestError",
            "429": "OpenAIRateLimitError",
        },
    ),
    "litellm": Client(
        "LiteLLM",
        lambda: [_litellm(), "litellm_client.py"],
        _pinned("litellm"),
        (*_EVERY_SDK, "embeddings"),
        {**_OPENAI_ERRORS, "402": "APIError"},
    ),
    "llm": Client(
        "llm, the command line",
        _python("llm_client"),
        _python_version("llm"),
        ("answer", "stream", "tools", "schema", "errors", "retry", "cancel"),
        {status: status for status in _OPENAI_ERRORS},
    ),
    "vercel": Client(
        "Vercel AI SDK, openai-compatible",
        _node("vercel"),
        _node_version("ai", "@ai-sdk/openai-compatible"),
        (*_EVERY_SDK, "embeddings"),
        {status: f"AI_APICallError {status}" for status in _OPENAI_ERRORS},
        NODE,
    ),
    "vercel-openai": Client(
        "Vercel AI SDK, openai",
        _node("vercel_openai"),
        _node_version("ai", "@ai-sdk/openai"),
        (*_EVERY_SDK, "responses"),
        {status: f"AI_APICallError {status}" for status in _OPENAI_ERRORS},
        NODE,
    ),
    "langchain-js": Client(
        "LangChain.js, ChatOpenAI",
        _node("langchain"),
        _node_version("@langchain/openai"),
        ("answer", "stream", "tools", "schema", "errors", "retry", "cancel", "responses", "embeddings"),
        {status: status for status in _OPENAI_ERRORS},
        NODE,
    ),
    "instructor": Client(
        "instructor",
        lambda: [_others(), "instructor_client.py"],
        _pinned("instructor"),
        ("tools", "schema", "errors"),
    ),
    "pydantic-ai": Client(
        "Pydantic AI",
        lambda: [_others(), "pydantic_ai_client.py"],
        _pinned("pydantic-ai-slim"),
        ("answer", "stream", "tools", "schema", "errors", "responses"),
        dict.fromkeys(_OPENAI_ERRORS, "ModelHTTPError"),
    ),
    "openai-agents": Client(
        "OpenAI Agents",
        lambda: [_others(), "agents_client.py"],
        _pinned("openai-agents"),
        ("answer", "stream", "tools", "schema", "errors", "responses"),
    ),
    "curl": Client("curl", _python("curl_client"), _first_line("curl", 2), tuple(ABILITIES), _STATUS_AND_CODE),
    "php": Client(
        "PHP with its curl",
        lambda: [program("php"), "client.php"],
        _first_line("php", 2),
        _EVERY_SDK,
        _STATUS_AND_CODE,
    ),
}


def run(client: Client, *, base_url: str, key: str, poor_key: str, nonce: str) -> subprocess.CompletedProcess[str]:
    """Run the client's program in an empty home. It prints a line of JSON for each ability."""
    command = [*client.command(), *client.abilities]
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "BASE_URL": base_url, "KEY": key, "POOR_KEY": poor_key, "NONCE": nonce}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            command, cwd=client.folder, env=env, capture_output=True, encoding="utf-8", timeout=180, check=False
        )
