"""Map exceptions to HTTP statuses and to the error format of a path: OpenAI's, Anthropic's or the image API's own."""

from __future__ import annotations

from collections.abc import Iterator

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
#: Paths of image jobs: those of the original image API, and edits in the same form. Their clients expect another error
#: format.
IMAGE_PATHS = ("/api/texttoimage", "/api/imagetoimage")

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


# ── the list of all codes ─────────────────────────────────────────────────────────────────────────────────

#: Codes that no class has as its default: status (None if no response carries it), OpenAI's `type`, and meaning.
MORE_CODES = {
    "content_filter": (400, "invalid_request_error", "The content filter of the model's provider refused the request."),
    "previous_response_not_found": (
        404,
        "invalid_request_error",
        "The response in previous_response_id, or one that it continues, is not stored.",
    ),
    "invalid_json": (400, "invalid_request_error", "The body is not a JSON object, or is nested too deeply."),
    "invalid_encoding": (400, "invalid_request_error", "The body is not in the encoding that Content-Encoding says."),
    "method_not_allowed": (405, "invalid_request_error", "The path exists, but not for this method."),
    "string_above_max_length": (400, "invalid_request_error", "The text is longer than the limit."),
    "link_expired": (
        410,
        "invalid_request_error",
        "The link has expired; poll the job for a new one.",
    ),
    "picture_removed": (410, "invalid_request_error", "The image was deleted because its retention time is over."),
    "invalid_image": (
        400,
        "invalid_request_error",
        "The file is not a JPEG, PNG, WebP or GIF image, or it is damaged.",
    ),
    "image_too_large": (400, "invalid_request_error", "The image has more pixels than the limit."),
    "cancelled": (None, "", "Of a job: it was cancelled before it was done; nothing was charged."),
    "invalid_file": (
        400,
        "invalid_request_error",
        "The file is no recording, is damaged, or contains more than it declares.",
    ),
    "file_too_large": (413, "invalid_request_error", "The uploaded file is larger than the limit."),
    "audio_too_short": (400, "invalid_request_error", "The recording is shorter than a tenth of a second."),
    "audio_too_long": (400, "invalid_request_error", "The recording is longer than the model accepts."),
    "invalid_form": (400, "invalid_request_error", "The multipart form cannot be parsed."),
    "nothing_to_speak": (400, "invalid_request_error", "The text to speak contains no letter and no digit."),
    "voice_not_found": (400, "invalid_request_error", "The voice does not exist; the message lists similar names."),
    "language_not_supported": (
        400,
        "invalid_request_error",
        "No voice speaks this language; the message lists the languages.",
    ),
    "email_taken": (None, "", "On the command line: the e-mail address already has an account."),
    "expired": (None, "", "Of a job: no worker could run it for a day; nothing was charged."),
    "storage_error": (None, "", "Of a job: the image could not be stored; nothing was charged."),
    "key_expired": (401, "authentication_error", "The key has expired."),
    "model_not_allowed": (
        403,
        "permission_error",
        "The key may not use this model; the message lists the models it may use.",
    ),
    "address_not_allowed": (403, "permission_error", "The key may not be used from this IP address."),
    "interrupted": (
        500,
        "server_error",
        "The server died, or was paused for so long that the charge was recorded without it; "
        "the cost up to the last checkpoint was charged. Send the request again.",
    ),
    "client_left": (None, "", "Of a generation: the caller disconnected; what had been generated was charged."),
}


class ErrorCode(msgspec.Struct, frozen=True):
    """A code that a customer or an operator can meet. `status` is None if no HTTP response carries it."""

    code: str
    status: int | None
    kind: str
    retryable: bool
    about: str


def error_codes() -> list[ErrorCode]:
    """Return every code by status, for the reference, the guide and the studio."""
    from minitoolai.engines.chat.failures import REQUEST_CODES

    known: dict[str, ErrorCode] = {}
    for kind in _classes(errors.ServiceError):
        if kind not in (errors.ClientLeft, errors.KeyForbids) and kind.code not in known:
            status, name = next((status, name) for cls, status, name in TABLE if issubclass(kind, cls))
            about = (kind.__doc__ or "").split("\n")[0]
            known[kind.code] = ErrorCode(kind.code, status, name, kind.retryable, about)
    for code, about in REQUEST_CODES.items():
        known[code] = ErrorCode(code, 400, "invalid_request_error", False, about)
    for code, (given, name, about) in MORE_CODES.items():
        known[code] = ErrorCode(code, given, name, False, about)
    return sorted(known.values(), key=lambda one: (one.status or 999, one.code))


def _classes(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)
