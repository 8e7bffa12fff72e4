"""Providers of sign-ins: the OpenID provider of npm's `oidc-provider`, and a server with GitHub's paths."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from tests.support.programs import NODE, install_node, program

CLIENT_SECRET = "a-secret:with+signs"


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def openid_provider(redirect_url: str, port: int) -> Iterator[str]:
    """Run tests/node/oidc.mjs, and yield its issuer."""
    install_node()
    process = subprocess.Popen(
        [program("node"), "oidc.mjs", str(port), redirect_url], cwd=NODE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert any("ready" in line for line in iter(process.stdout.readline, ""))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class GitHub(ThreadingHTTPServer):
    """A server with the paths of GitHub Enterprise. `user` and `emails` are what its API says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _GitHubPage)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.user: object = {"id": 583231, "login": "octocat"}
        self.emails: object = [{"email": "octocat@example.com", "primary": True, "verified": True}]
        self.tokens: list[dict[str, str]] = []
        self.challenge = ""
        self._thread = Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> GitHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _GitHubPage(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/login/oauth/authorize":
            self.server.challenge = query["code_challenge"]
            self.send_response(302)
            self.send_header("location", f"{query['redirect_uri']}?code=c0de&state={quote(query['state'])}")
            self.end_headers()
        elif self.headers["authorization"] != "Bearer t0ken":
            self._answer({"message": "Bad credentials"}, 401)
        else:
            self._answer({"/api/v3/user": self.server.user, "/api/v3/user/emails": self.server.emails}[parts.path])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.tokens.append(form)
        good = form.get("code") == "c0de" and form.get("client_secret") == "hush"
        self._answer({"access_token": "t0ken"} if good else {"error": "bad_verification_code"})

    def _answer(self, value: object, status: int = 200) -> None:
        body = msgspec.json.encode(value)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""
