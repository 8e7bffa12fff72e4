"""What can go wrong, as facts. The edges turn these into statuses and bodies; nothing here knows HTTP.

ServiceError
├── InvalidRequest          the caller's words: names the field
│   ├── ContextExceeded, ModelNotFound
│   ├── ContentRefused      the operator's policy on prompts
│   ├── UrlForbidden, FetchFailed   addresses that callers name
│   └── NotFound, Gone
├── AccessDenied            InvalidKey
├── KeyForbids              a good key, but not for this
├── InsufficientBalance
├── BudgetExceeded          the key's, not the account's
├── IdempotencyMismatch     one Idempotency-Key, two requests
├── IdempotencyInFlight     the first one is still at work
├── IdempotencySpent        the first one was charged, and its answer is not kept
├── Overloaded              ours: queue or disk full
│   └── NoRoom              before one engine
├── RateLimited             the caller's: more than its share
└── EngineError             whoever does the work
    ├── EngineRefused       it said no to this request (4xx)
    ├── EngineRateLimited
    ├── EngineBroken        it may have worked, and may bill, all the same
    └── EngineTimeout
"""

from __future__ import annotations


class ServiceError(Exception):
    """Our mistake, and the root of the others.

    `code` is stable and public; `param` names the field at fault; `retryable` is advice.
    """

    code = "internal_error"
    retryable = False

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


class InvalidRequest(ServiceError):
    """The request cannot be served as written; the message says what to write instead."""

    code = "invalid_request"


class ContextExceeded(InvalidRequest):
    """Prompt and answer together do not fit the model."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No such model on offer; the message lists the nearest names."""

    code = "model_not_found"


class NotFound(InvalidRequest):
    """No such object, or not the caller's."""

    code = "not_found"


class Gone(InvalidRequest):
    """It was there, and is not any more: an expired link, a picture removed by retention."""

    code = "gone"


class ContentRefused(InvalidRequest):
    """The policy on prompts refuses this one; nothing was charged."""

    code = "content_policy"


class UrlForbidden(InvalidRequest):
    """An address that this server will not call: not https, not public, or with more in it than an address."""

    code = "url_not_allowed"


class FetchFailed(InvalidRequest):
    """The address did not answer, not in time, or not with what was asked for."""

    code = "fetch_failed"


class BodyTooLarge(InvalidRequest):
    """More bytes than a body may have."""

    code = "body_too_large"


class WrongContentType(InvalidRequest):
    """The body is not announced as JSON."""

    code = "unsupported_media_type"


class AccessDenied(ServiceError):
    """No key, or one that is not known here."""

    code = "invalid_api_key"


class KeyForbids(ServiceError):
    """The key is good, but not for this model, or not from this address."""

    code = "key_forbids"


class BudgetExceeded(ServiceError):
    """The key may spend no more today, this month or at all. `needed` and `left` in nano-dollars."""

    code = "budget_exceeded"

    def __init__(self, message: str, *, needed: int, left: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.left = left


class InsufficientBalance(ServiceError):
    """The account cannot pay for what was asked. `needed` and `available` in nano-dollars."""

    code = "insufficient_balance"

    def __init__(self, message: str, *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class IdempotencyMismatch(ServiceError):
    """This Idempotency-Key was sent with another request within 24 hours; a new request needs a new key."""

    code = "idempotency_mismatch"


class IdempotencyInFlight(ServiceError):
    """The first request with this Idempotency-Key is still at work; ask again for its answer."""

    code = "idempotency_in_flight"
    retryable = True


class IdempotencySpent(ServiceError):
    """The first request with this Idempotency-Key was charged, but its answer is not kept; send another key."""

    code = "idempotency_spent"


class Overloaded(ServiceError):
    """We cannot take this on now; trying again later is right."""

    code = "overloaded"
    retryable = True


class NoRoom(Overloaded):
    """As many wait for an engine as may."""


class RateLimited(ServiceError):
    """The caller has had its share for now; `retry_after_s` says when there is more."""

    code = "rate_limit_exceeded"
    retryable = True


class ClientLeft(ServiceError):
    """The caller hung up; what was written until then is charged."""

    code = "client_left"


class EngineError(ServiceError):
    """The engine failed. Foreign exceptions become this once, at the engine's border."""

    code = "upstream_error"
    retryable = True


class EngineRefused(EngineError):
    """The engine understood the request and declined it, for a reason the caller can mend."""

    code = "invalid_request"
    retryable = False


class EngineRateLimited(EngineError):
    """The engine asks us to slow down."""

    code = "rate_limit_exceeded"


class EngineBroken(EngineError):
    """The engine broke off. It may bill what it did until then, so it is not asked the same again."""


class EngineTimeout(EngineError):
    """The engine took too long: to connect, to its first token, or in all."""

    code = "upstream_timeout"


class CatalogError(Exception):
    """catalog.toml is wrong; the message names file, line and remedy."""


class SettingsError(Exception):
    """A MINITOOLAI_* variable is wrong; the message names it and the remedy."""


class StoreError(Exception):
    """The database or the object store could not do what was asked (disk full, gone, locked)."""


class AlreadySettled(StoreError):
    """The hold was settled before this charge, with another cost or outcome. This charge changed nothing."""


class ObjectMissing(StoreError):
    """The object store works, and has nothing under this key."""


class ConnectionLost(StoreError):
    """The database's server is away or broke the connection. What was not committed is not written."""


class CommitInDoubt(ConnectionLost):
    """The connection broke while a COMMIT was under way, and the server has been away since: nobody knows yet."""
