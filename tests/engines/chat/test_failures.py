"""Tests of engines/chat/failures.py: what a caller is told of an upstream's failure, and what never."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any

import pytest

from minitoolai.core.errors import (
    ContextExceeded,
    EngineBroken,
    EngineError,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
)
from minitoolai.engines.chat.failures import (
    LONGEST_RETRY_AFTER_S,
    engine_error,
    failure_in_answer,
    find_fault,
    read_retry_after,
    upstream_failure,
)
from minitoolai.httpclient.client import ConnectError, ConnectionBroken, HttpError, ReadTimeout


@pytest.mark.parametrize(
    ("status", "retry_after", "body", "kind", "retry_after_s"),
    [
        (400, None, b'{"error":{"message":"m","code":"context_length_exceeded"}}', ContextExceeded, None),
        (429, "9", b'{"error":{"message":"m"}}', EngineRateLimited, 9),
        (429, "soon", b"", EngineRateLimited, 5),
        (422, None, b'{"error":{"message":"m","param":"top_p"}}', EngineRefused, None),
        (503, None, b"", Overloaded, 2),
        (529, None, b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', Overloaded, 2),
        (504, None, b"", EngineTimeout, None),
        (401, None, b'{"error":{"message":"bad key"}}', EngineUnavailable, None),
        (500, None, b"<html>", EngineError, None),
        (402, None, b'{"error":{"message":"Insufficient credits"}}', EngineError, None),
    ],
)
def test_error_responses_are_translated(
    status: int, retry_after: str | None, body: bytes, kind: type[Exception], retry_after_s: int | None
) -> None:
    failure = upstream_failure(status, retry_after, body, "up")
    assert type(failure) is kind
    assert failure.retry_after_s == retry_after_s
    assert "bad key" not in failure.message
    assert kind is not EngineRefused or failure.param == "top_p"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectError("x"), EngineUnavailable),
        (ReadTimeout("x"), EngineTimeout),
        (ConnectionBroken("x"), EngineBroken),
    ],
)
def test_failed_exchanges_are_translated(error: HttpError, kind: type[EngineError]) -> None:
    translated = engine_error(error, "up")
    assert type(translated) is kind
    assert translated.message.startswith("up ")


OPENAI_FILTER = {
    "error": {"message": "Your prompt was flagged.", "type": "invalid_request_error", "code": "content_filter"}
}
AZURE_FILTER = {
    "error": {
        "message": "The prompt triggers Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        },
    }
}
#: (status, body, code) of errors that speak of the caller's request.
REQUESTS: list[tuple[int, Any, str]] = [
    (400, OPENAI_FILTER, "content_filter"),
    (400, AZURE_FILTER, "content_filter"),
    (400, {"error": {"message": "bad", "innererror": {"content_filter_result": {}}}}, "content_filter"),
    (400, {"code": "DataInspectionFailed", "message": "It may contain inappropriate content."}, "content_filter"),
    (
        403,
        {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["x"]}}},
        "content_filter",
    ),
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. You asked for 5000.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        "context_length_exceeded",
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
        "context_length_exceeded",
    ),
    (
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 21 tokens > 20"}},
        "context_length_exceeded",
    ),
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 4 tokens, too large for model with 3 maximum context length",
            "type": "invalid_request_prompt",
            "code": "3051",
        },
        "context_length_exceeded",
    ),
    (
        422,
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 2048.", "error_type": "validation"},
        "context_length_exceeded",
    ),
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (2) exceeds the maximum number of tokens allowed (1).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "context_length_exceeded",
    ),
    (
        400,
        {"error": {"message": "Unsupported parameter: 'top_k'", "code": "unsupported_parameter"}},
        "unsupported_parameter",
    ),
    (
        400,
        {"error": {"message": "Unsupported value: 'temperature' does not support 0.2", "code": "unsupported_value"}},
        "unsupported_value",
    ),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "invalid_request"),
    (400, {"error": "bad thing", "code": "x"}, "invalid_request"),
    (400, {"message": "Expected 'messages' to be a list", "code": 400}, "invalid_request"),
]


@pytest.mark.parametrize(
    "message",
    [
        "Invalid schema for function 'get_price': 'account' is not of type 'object'",
        'Invalid "plan": expected one of "credits", "balance"',
        "temperature must be at most 2",
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
        "`tool_choice` needs `tools`",
    ],
)
def test_a_refusal_quotes_names_from_the_request(message: str) -> None:
    failure = upstream_failure(400, None, json.dumps({"error": {"message": message}}).encode(), "up")
    assert (type(failure), failure.message) == (EngineRefused, message)


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"top_k is NaN","x":NaN}}', b'\xef\xbb\xbf{"error":{"message":"top_k\n"}}']
)
def test_the_body_of_an_error_is_read_leniently(body: bytes) -> None:
    assert upstream_failure(400, None, body, "up").message.startswith("top_k")


@pytest.mark.parametrize(("status", "body", "code"), REQUESTS, ids=lambda value: str(value)[:60])
def test_what_speaks_of_the_request_keeps_its_code_and_words(status: int, body: Any, code: str) -> None:
    failure = upstream_failure(status, None, json.dumps(body).encode(), "up")
    assert (failure.code, failure.retryable) == (code, False)
    assert len(failure.message) > 2


#: Errors whose words speak of the operator: each has SECRET in a place that is never passed on.
SECRETS: list[tuple[int, Any]] = [
    (
        429,
        {
            "error": {
                "message": "Rate limit reached in organization org-SECRET on tokens per min",
                "code": "rate_limit_exceeded",
            }
        },
    ),
    (
        429,
        {
            "error": {
                "message": "You exceeded your current quota SECRET, please check your plan",
                "code": "insufficient_quota",
            }
        },
    ),
    (
        400,
        {
            "error": {
                "message": "Your credit balance SECRET is too low. Please go to Plans & Billing",
                "type": "invalid_request_error",
            }
        },
    ),
    (
        400,
        {"error": {"message": "API key not valid. Please pass a valid API key SECRET.", "status": "INVALID_ARGUMENT"}},
    ),
    (400, {"error": {"message": "Your organization SECRET must be verified to stream this model."}}),
    (400, {"error": {"message": "Bad field. See https://SECRET.internal:8000/docs"}}),
    (400, {"error": {"message": "Cannot connect to 10.0.0.7:8000 SECRET"}}),
    (400, {"error": {"message": "Billing hard limit SECRET has been reached", "code": "billing_hard_limit_reached"}}),
    (400, {"message": 'File "/opt/SECRET/server.py", line 3'}),
    (404, {"error": {"message": "The deployment SECRET does not exist", "code": "DeploymentNotFound"}}),
    (400, "<html><body>nginx SECRET</body></html>"),
    (401, {"error": {"message": "Incorrect API key provided: SECRET"}}),
    (403, {"error": {"message": "Project proj_SECRET does not have access"}}),
    (402, {"error": {"message": "Insufficient Balance SECRET"}}),
    (500, {"error": {"message": "CUDA error on SECRET"}}),
    (503, {"error": {"message": "SECRET is overloaded"}}),
    (400, {"error": {"message": "Invalid value 'sk-SECRET'"}}),
    (400, '{"error": {"message": "SECRET'),
    (400, {"error": {"message": "Upstream said: <html>", "detail": "SECRET"}}),
    (422, {"detail": "No route for tenant SECRET"}),
    (
        400,
        {"error": {"message": "Your account SECRET is not active, please check your billing details on our website."}},
    ),
    (413, {"error": {"message": "Request too large for gpt-4o in organization org-SECRET on tokens per min (TPM)"}}),
]


@pytest.mark.parametrize(("status", "body"), SECRETS, ids=lambda value: str(value)[:60])
def test_what_speaks_of_the_operator_is_never_told(status: int, body: Any) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    for failure in (upstream_failure(status, None, raw, "up"), _in_answer(body)):
        assert "SECRET" not in failure.message
        assert len(failure.message) >= 10


def _in_answer(body: Any) -> Any:
    fault = find_fault(body, is_error=True)
    assert fault is not None
    return failure_in_answer(fault, "up")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("9", 9),
        ("1.5", 2),
        ("0", None),
        ("-5", None),
        ("\xb2", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("nan", None),
        ("1e9", None),
        ("99999999", LONGEST_RETRY_AFTER_S),
        ("9" * 5000, None),
        ("Wed, 21 Oct 2037 07:28:00 GMT", LONGEST_RETRY_AFTER_S),
        ("Wed, 21 Oct 1970 07:28:00 GMT", None),
        ("Wed, 99 Oct 2037 99:28:00 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 +9999", None),
    ],
)
def test_retry_after_is_read_or_ignored(value: str | None, seconds: int | None) -> None:
    assert read_retry_after(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    wait_s = read_retry_after(email.utils.formatdate(time.time() + 60, usegmt=True))
    assert wait_s is not None
    assert 55 <= wait_s <= 61


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            {"error": {"message": "slow down", "code": 429, "type": "rate_limit_error"}},
            EngineRateLimited,
            "rate_limit_exceeded",
        ),
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, Overloaded, "overloaded"),
        ({"error": {"code": 502, "message": "Provider returned error"}}, EngineError, "upstream_error"),
        ({"error": {"message": "The prompt was flagged", "code": "content_filter"}}, EngineRefused, "content_filter"),
        ({"error": "boom"}, EngineError, "upstream_error"),
        ({"detail": "Not Found"}, EngineError, "upstream_error"),
        (
            {"base_resp": {"status_code": 1004, "status_msg": "login fail"}, "choices": None},
            EngineError,
            "upstream_error",
        ),
        (
            {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
            EngineError,
            "upstream_error",
        ),
    ],
)
def test_an_error_within_an_answer_has_the_kind_of_its_code(error: Any, kind: type[Exception], code: str) -> None:
    failure = _in_answer(error)
    assert (type(failure), failure.code) == (kind, code)
    assert find_fault(error) is not None


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "ping"},
        {"choices": []},
        {"error": None},
        {"error": {}},
        {"error": ""},
        {"object": "chat.completion.chunk"},
        {"type": "status", "message": "loading"},
        {"code": 200, "message": "ok", "data": []},
        [],
        "ping",
        None,
        7,
    ],
)
def test_other_values_are_no_error(value: Any) -> None:
    assert find_fault(value) is None
