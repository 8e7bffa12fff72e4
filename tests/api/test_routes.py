"""Test the errors of routes that Starlette serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from minitoolai.api.routes import HANDLERS, other_paths


def call(method: str, path: str, why_not_ready: Callable[[], str | None] = lambda: None) -> tuple[int, Any, Any]:
    """Send one request to the app. Return status, headers and the decoded body, also if the app raises afterwards."""
    app, sent = other_paths(why_not_ready=why_not_ready), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
        try:
            await app(scope, receive, send)
        except ZeroDivisionError:
            assert sent, "the error was raised before the response"

    asyncio.run(run())
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


def test_an_unknown_path_is_a_404_that_suggests_the_nearest() -> None:
    status, _, body = call("GET", "/chat/completions")
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert "did you mean /v1/chat/completions?" in body["error"]["message"]


def test_errors_under_the_image_paths_have_the_shape_of_the_image_api() -> None:
    status, _, body = call("GET", "/api/texttoimage/jobs/1/nothing")
    assert (status, body["status"], body["code"], body["jobid"]) == (404, "error", "not_found", None)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/v1/models/a/b", "GET, HEAD, OPTIONS"),
        ("/v1/generations/gen-0", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_refused_with_the_allowed_ones(path: str, allow: str) -> None:
    status, headers, body = call("POST", path)
    assert (status, headers["allow"], body["error"]["code"]) == (405, allow, "method_not_allowed")
    assert allow in body["error"]["message"]


def test_the_events_of_a_job_do_not_support_head() -> None:
    assert call("HEAD", "/api/texttoimage/jobs/1/events")[0] == 405


def test_readyz_returns_the_reason_and_retry_after() -> None:
    status, headers, body = call("GET", "/readyz", lambda: "starting")
    assert (status, headers["retry-after"], body) == (503, "2", {"status": "not ready", "reason": "starting"})


def test_an_unexpected_error_has_the_shape_of_its_path() -> None:
    def fail() -> str | None:
        raise ZeroDivisionError

    status, headers, body = call("GET", "/readyz", fail)
    assert (status, headers["content-type"]) == (500, "application/json")
    assert (body["error"]["code"], body["error"]["type"]) == ("internal_error", "server_error")


def test_literal_paths_come_before_parameters_that_would_match_them() -> None:
    paths = [handler.path for handler in HANDLERS]
    assert paths.index("/v1/models") < paths.index("/v1/models/{name:path}")
