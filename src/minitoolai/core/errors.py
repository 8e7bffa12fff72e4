"""Exception tree. The HTTP layer turns these errors into statuses and bodies; nothing here knows HTTP.

ServiceError
├── InvalidRequest          the request is wrong: names the field
│   ├── ContextExceeded, ModelNotFound
│   ├── ContentRefused      the operator's prompt policy
│   ├── UrlForbidden, FetchFailed   URLs in a request
│   ├── BodyTooLarge        TooComplex: too many lists and objects
│   ├── HeadTooLarge, RequestTimeout   the connection is closed
│   ├── WrongContentType    not JSON
│   │   └── UnsupportedContentEncoding   packed in a way that is not unpacked here
│   └── NotFound, Gone
├── AccessDenied            no API key, or an unknown one
├── KeyForbids              valid key, but not allowed to do this
│   └── AccountSuspended    the operator has suspended the account
├── InsufficientBalance
├── BudgetExceeded          the budget of the key, not the balance of the account
├── IdempotencyMismatch     one Idempotency-Key, two different requests
├── IdempotencyInFlight     the first request is still running
├── IdempotencySpent        the first request was charged, and its response is not stored
├── Overloaded              this server cannot take the request now
│   ├── EngineFull          the queue of one engine is full
│   └── ReportTooLarge      a report takes longer than its time limit
├── RateLimited             the caller exceeded its rate limit
│   └── TooManyConnections  its address has too many open connections
├── ClientLeft              the client disconnected
└── EngineError             the engine failed
    ├── EngineRefused       it rejected this request (4xx)
    ├── EngineUnavailable   it cannot be reached, or rejects the operator's key: no request can cause that
    ├── EngineRateLimited
    ├── EngineBroken        it broke off, and may bill for the work
    ├── EngineLost          the machine under it is gone: nothing that it did is at fault
    └── EngineTimeout

CatalogError, SettingsError: the operator's configuration is wrong.
StoreError                  the database or the object store failed
├── AlreadySettled          the charge was settled before, differently
├── ObjectMissing
├── QueryTimeout            a statement ran into its time limit
└── ConnectionLost          CommitInDoubt
"""

from __future__ import annotations


class ServiceError(Exception):
    """Root of all errors reported to callers; by itself, an internal error.

    `code` is stable and public, `param` names the field at fault, `retryable` is advice to the caller. `is_fault`: this
    server or its engine is at fault, so the operator should know; otherwise the request or its caller is the cause.
    """

    code = "internal_error"
    retryable = False
    is_fault = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


def internal_error(bug: Exception) -> ServiceError:
    """Return the error for a request that failed because of a bug in this server."""
    return ServiceError(f"Internal error ({type(bug).__name__}). Try again, or contact the operator.")


class InvalidRequest(ServiceError):
    """The request is invalid. The message says what to change."""

    code = "invalid_request"
    is_fault = False


class ContextExceeded(InvalidRequest):
    """Prompt and output together exceed the context length of the model.

    `is_agents_first`: the first prompt of an agent alone does, so a summary of the conversation cannot help.
    """

    code = "context_length_exceeded"
    is_agents_first = False


class ModelNotFound(InvalidRequest):
    """The catalog has no such model. The message suggests similar names."""

    code = "model_not_found"


class NotFound(InvalidRequest):
    """The object does not exist, or belongs to another account."""

    code = "not_found"


class Gone(InvalidRequest):
    """The object existed but is gone: an expired link, or an image removed by retention."""

    code = "gone"


class ContentRefused(InvalidRequest):
    """The prompt policy refused this prompt. Nothing was charged."""

    code = "content_policy"


class UrlForbidden(InvalidRequest):
    """The server will not call this URL (SSRF protection): not https, not public, or with credentials."""

    code = "url_not_allowed"


class FetchFailed(InvalidRequest):
    """The URL could not be fetched: no response, a timeout, or the wrong content."""

    code = "fetch_failed"


class BodyTooLarge(InvalidRequest):
    """The request body is larger than allowed."""

    code = "body_too_large"


class TooComplex(BodyTooLarge):
    """The body has too many lists, objects and commas; the message names their number and the limit."""

    code = "too_complex"


class HeadTooLarge(InvalidRequest):
    """The request line and the headers are too large, or there are too many headers."""

    code = "head_too_large"


class RequestTimeout(InvalidRequest):
    """The client began a request and did not complete it in time."""

    code = "request_timeout"
    retryable = True


class WrongContentType(InvalidRequest):
    """The Content-Type of the request is not JSON."""

    code = "unsupported_media_type"


class UnsupportedContentEncoding(WrongContentType):
    """The Content-Encoding of the request is not supported."""

    code = "unsupported_content_encoding"


class AccessDenied(ServiceError):
    """The API key is missing or unknown."""

    code = "invalid_api_key"
    is_fault = False


class KeyForbids(ServiceError):
    """The API key is valid, but not for this request: the code says why."""

    is_fault = False

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)


class AccountSuspended(KeyForbids):
    """The operator has suspended the account of this API key. Nothing new starts, and what runs is ended."""

    code = "account_suspended"

    def __init__(self, message: str) -> None:
        super().__init__(message, code=self.code)


class BudgetExceeded(ServiceError):
    """The key has used up its budget for today, this month or in total. `needed` and `left` in nano-dollars."""

    code = "budget_exceeded"
    is_fault = False

    def __init__(self, message: str, *, needed: int, left: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.left = left


class InsufficientBalance(ServiceError):
    """The account cannot pay for the request. `needed` and `available` in nano-dollars."""

    code = "insufficient_balance"
    is_fault = False

    def __init__(self, message: str, *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class IdempotencyMismatch(ServiceError):
    """This Idempotency-Key was sent with a different request within 24 hours. A new request needs a new key."""

    code = "idempotency_mismatch"
    is_fault = False


class IdempotencyInFlight(ServiceError):
    """The first request with this Idempotency-Key is still running. Retry to get its response."""

    code = "idempotency_in_flight"
    is_fault = False
    retryable = True


class IdempotencySpent(ServiceError):
    """The first request with this Idempotency-Key was charged, but its response is not stored. Send a new key."""

    code = "idempotency_spent"
    is_fault = False


class Overloaded(ServiceError):
    """The server cannot take the request now. Retrying later is safe."""

    code = "overloaded"
    retryable = True


class EngineFull(Overloaded):
    """The engine's queue is full."""


class ReportTooLarge(Overloaded):
    """The report takes longer than its time limit. Ask for a shorter period."""

    code = "report_too_large"
    retryable = False
    is_fault = False


class RateLimited(ServiceError):
    """The caller exceeded a rate limit. `retry_after_s` says when to retry."""

    code = "rate_limit_exceeded"
    is_fault = False
    retryable = True


class TooManyConnections(RateLimited):
    """The client's address has as many open connections as it may have. The new one is closed."""

    code = "too_many_connections"


class ClientLeft(ServiceError):
    """The client disconnected. The output produced until then is charged."""

    code = "client_left"
    is_fault = False


class EngineError(ServiceError):
    """The engine failed. Every engine translates the exceptions of its libraries to this."""

    code = "upstream_error"
    retryable = True


class EngineRefused(EngineError):
    """The engine rejected the request, for a reason that the caller can fix."""

    code = "invalid_request"
    is_fault = False
    retryable = False


class EngineUnavailable(EngineError):
    """The engine cannot be reached, or rejects the operator's key. No request of a caller can cause that."""


class EngineRateLimited(EngineError):
    """The engine's own rate limit was reached.

    By itself it concerns one request. `rests_model`: the engine sent Retry-After, which applies to all callers.
    `is_size`: the request is too large for the limit, so that repeating it is of no use.
    """

    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, rests_model: bool = False, is_size: bool = False
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.rests_model = rests_model
        self.is_size = is_size


class EngineBroken(EngineError):
    """The engine broke off. It may bill for its work, so the request is not retried on it."""


class EngineLost(EngineError):
    """The machine under the engine is gone or cannot be reached. The request is not at fault, and did not fail.

    `under_way`: the engine was working on it. One that loses many machines in a row may be what ends them.
    """

    def __init__(self, message: str, *, retry_after_s: int | None = None, under_way: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.under_way = under_way


class EngineTimeout(EngineError):
    """The engine took too long: to connect, to its first token, or in total."""

    code = "upstream_timeout"


class CatalogError(Exception):
    """The catalog is invalid. The message names file, line and remedy."""


class SettingsError(Exception):
    """A MINITOOLAI_* variable is invalid. The message names it and the remedy."""


class StoreError(Exception):
    """The database or the object store failed (disk full, missing, locked)."""


class AlreadySettled(StoreError):
    """The hold was settled before this charge, with another cost or outcome. This charge changed nothing."""


class ObjectMissing(StoreError):
    """The object store works, but has no object with this key."""


class QueryTimeout(StoreError):
    """A statement ran into the time limit of its connection."""


class ConnectionLost(StoreError):
    """The database server is unavailable or closed the connection. Uncommitted changes are not written."""


class CommitInDoubt(ConnectionLost):
    """The connection broke during a COMMIT, and it is not known yet whether the transaction was committed."""
