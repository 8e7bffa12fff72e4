"""Errors in the format of Anthropic's API, for its clients: their libraries choose the exception by status and type."""

from __future__ import annotations

import msgspec

from minitoolai.core import errors

#: (exception class, status, type). The first class that matches is used.
TABLE: tuple[tuple[type[errors.ServiceError], int, str], ...] = (
    (errors.BodyTooLarge, 413, "request_too_large"),
    (errors.WrongContentType, 415, "invalid_request_error"),
    (errors.ModelNotFound, 404, "not_found_error"),
    (errors.NotFound, 404, "not_found_error"),
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.AccessDenied, 401, "authentication_error"),
    (errors.KeyForbids, 403, "permission_error"),
    (errors.BudgetExceeded, 402, "billing_error"),
    (errors.InsufficientBalance, 402, "billing_error"),
    (errors.RateLimited, 429, "rate_limit_error"),
    (errors.IdempotencyMismatch, 422, "invalid_request_error"),
    (errors.IdempotencyInFlight, 409, "invalid_request_error"),
    (errors.IdempotencySpent, 409, "invalid_request_error"),
    (errors.Overloaded, 529, "overloaded_error"),
    (errors.EngineRefused, 400, "invalid_request_error"),
    (errors.EngineRateLimited, 429, "rate_limit_error"),
    (errors.EngineTimeout, 504, "timeout_error"),
    (errors.ServiceError, 500, "api_error"),
)
#: Paths of this API. Its list of models has the path of OpenAI's, and is told apart by a header.
MESSAGES_PATHS = "/v1/messages"

_encode = msgspec.json.Encoder().encode


def status_and_type(error: errors.ServiceError) -> tuple[int, str]:
    """Return the HTTP status and Anthropic's `type` for an error."""
    return next((status, kind) for cls, status, kind in TABLE if isinstance(error, cls))


def error_body(error: errors.ServiceError) -> bytes:
    """Return the body `{"type": "error", "error": {"type", "message"}}`."""
    kind = status_and_type(error)[1]
    return _encode({"type": "error", "error": {"type": kind, "message": error.message}})


def error_event(error: errors.ServiceError) -> bytes:
    """Return an error as a server-sent event, for a stream that has already begun."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"
