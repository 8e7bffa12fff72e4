"""One table: what went wrong, as status and body in OpenAI's shape."""

from __future__ import annotations

import msgspec

from minitoolai.core import errors

#: (error, status, OpenAI's `type`). The first class that fits decides.
TABLE: tuple[tuple[type[errors.ServiceError], int, str], ...] = (
    (errors.BodyTooLarge, 413, "invalid_request_error"),
    (errors.WrongContentType, 415, "invalid_request_error"),
    (errors.ModelNotFound, 404, "invalid_request_error"),
    (errors.NotFound, 404, "invalid_request_error"),
    (errors.Gone, 410, "invalid_request_error"),
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.AccessDenied, 401, "authentication_error"),
    (errors.KeyForbids, 403, "permission_error"),
    (errors.BudgetExceeded, 402, "insufficient_quota"),
    (errors.InsufficientBalance, 402, "insufficient_quota"),
    (errors.RateLimited, 429, "rate_limit_error"),
    (errors.IdempotencyMismatch, 422, "invalid_request_error"),
    (errors.IdempotencyInFlight, 409, "invalid_request_error"),
    (errors.IdempotencySpent, 409, "invalid_request_error"),
    (errors.Overloaded, 503, "server_error"),
    (errors.EngineRefused, 400, "invalid_request_error"),
    (errors.EngineRateLimited, 429, "rate_limit_error"),
    (errors.EngineTimeout, 504, "server_error"),
    (errors.EngineError, 502, "server_error"),
    (errors.ServiceError, 500, "server_error"),
)

#: Where clients of the original service look for the reason of a refusal in a shape of its own.
IMAGE_PATHS = "/api/texttoimage"

#: Errors that this process has answered with, by status and code: for /metrics.
error_counts: dict[tuple[int, str], int] = {}

_encode = msgspec.json.Encoder().encode


def status_and_type(error: errors.ServiceError) -> tuple[int, str]:
    """The HTTP status and OpenAI's `type` for an error."""
    return next((status, kind) for cls, status, kind in TABLE if isinstance(error, cls))


def error_body(error: errors.ServiceError, path: str = "") -> bytes:
    """`{"error": {message, type, param, code}}`; under /api/texttoimage the contract's own shape."""
    status, kind = status_and_type(error)
    error_counts[status, error.code] = error_counts.get((status, error.code), 0) + 1
    if path.startswith(IMAGE_PATHS):
        fields = {"status": "error", "jobid": None, "signature": None, "message": error.message, "code": error.code}
        return _encode(fields)
    return _encode({"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}})


def error_headers(error: errors.ServiceError) -> list[tuple[bytes, bytes]]:
    """`Retry-After`, where trying again makes sense; `WWW-Authenticate` on 401."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, errors.AccessDenied):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_event(message: str, *, kind: str, code: str, param: str | None = None) -> bytes:
    """An error after the stream has begun."""
    return b"data: " + _encode({"error": {"message": message, "type": kind, "param": param, "code": code}}) + b"\n\n"
