"""Map exceptions to HTTP statuses and to the error format of a path: OpenAI's, Anthropic's or the image API's own."""

from __future__ import annotations

import msgspec

from minitoolai.core import errors

#: (exception class, status, OpenAI's `type`). The first class that matches is used.
TABLE: tuple[tuple[type[errors.ServiceError], int, str], ...] = (
    (errors.BodyTooLarge, 413, "invalid_request_error"),
    (errors.HeadTooLarge, 431, "invalid_request_error"),
    (errors.RequestTimeout, 408, "invalid_request_error"),
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

#: The same in Anthropic's format. Its libraries choose the exception by status and type.
ANTHROPIC_TABLE: tuple[tuple[type[errors.ServiceError], int, str], ...] = (
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

#: Paths of Anthropic's API. Its list of models has the same path as OpenAI's; a header distinguishes the two.
MESSAGES_PATHS = "/v1/messages"
#: Paths of the original image API. Its clients expect another error format.
IMAGE_PATHS = "/api/texttoimage"

#: Error responses of this process by status and code, for /metrics.
error_counts: dict[tuple[int, str], int] = {}

_encode = msgspec.json.Encoder().encode


def status_and_type(error: errors.ServiceError) -> tuple[int, str]:
    """Return the HTTP status and OpenAI's `type` for an error."""
    return next((status, kind) for cls, status, kind in TABLE if isinstance(error, cls))


def _anthropic_status_and_type(error: errors.ServiceError) -> tuple[int, str]:
    return next((status, kind) for cls, status, kind in ANTHROPIC_TABLE if isinstance(error, cls))


def status_of(error: errors.ServiceError, path: str = "") -> int:
    """Return the HTTP status for an error at this path."""
    return (_anthropic_status_and_type if path.startswith(MESSAGES_PATHS) else status_and_type)(error)[0]


def error_body(error: errors.ServiceError, path: str = "") -> bytes:
    """Return the body `{"error": {message, type, param, code}}`, or that of the API to which the path belongs."""
    status = status_of(error, path)
    error_counts[status, error.code] = error_counts.get((status, error.code), 0) + 1
    if path.startswith(IMAGE_PATHS):
        fields = {"status": "error", "jobid": None, "signature": None, "message": error.message, "code": error.code}
        return _encode(fields)
    if path.startswith(MESSAGES_PATHS):
        return _encode(
            {"type": "error", "error": {"type": _anthropic_status_and_type(error)[1], "message": error.message}}
        )
    kind = status_and_type(error)[1]
    return _encode({"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}})


def error_headers(error: errors.ServiceError) -> list[tuple[bytes, bytes]]:
    """Return `Retry-After` if a retry makes sense, `WWW-Authenticate` for a 401, and the encodings that are read."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, errors.AccessDenied):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, errors.UnsupportedContentEncoding):
        headers.append((b"accept-encoding", b"gzip, deflate"))
    return headers


def last_event(error: errors.ServiceError, path: str) -> bytes:
    """Return the event that ends a stream at this path with an error."""
    if path.startswith(MESSAGES_PATHS):
        return b"event: error\ndata: " + error_body(error, path) + b"\n\n"
    return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


def error_event(message: str, *, kind: str, code: str, param: str | None = None) -> bytes:
    """Return an error as a server-sent event, for a stream that has already begun."""
    return b"data: " + _encode({"error": {"message": message, "type": kind, "param": param, "code": code}}) + b"\n\n"
