"""Errors as callers see them: one status, one format and one stable code each."""

from __future__ import annotations

import json

import pytest

from minitoolai.core import errors
from minitoolai.core.errors import ServiceError
from minitoolai.http.errors import TABLE, error_body, error_headers, status_and_type

#: The contract: class → (status, type, code, may it help to try again).
PROMISED = {
    errors.ServiceError: (500, "server_error", "internal_error", False),
    errors.InvalidRequest: (400, "invalid_request_error", "invalid_request", False),
    errors.ContextExceeded: (400, "invalid_request_error", "context_length_exceeded", False),
    errors.ModelNotFound: (404, "invalid_request_error", "model_not_found", False),
    errors.NotFound: (404, "invalid_request_error", "not_found", False),
    errors.Gone: (410, "invalid_request_error", "gone", False),
    errors.ContentRefused: (400, "invalid_request_error", "content_policy", False),
    errors.UrlForbidden: (400, "invalid_request_error", "url_not_allowed", False),
    errors.FetchFailed: (400, "invalid_request_error", "fetch_failed", False),
    errors.BodyTooLarge: (413, "invalid_request_error", "body_too_large", False),
    errors.TooComplex: (413, "invalid_request_error", "too_complex", False),
    errors.HeadTooLarge: (431, "invalid_request_error", "head_too_large", False),
    errors.RequestTimeout: (408, "invalid_request_error", "request_timeout", True),
    errors.TooManyConnections: (429, "rate_limit_error", "too_many_connections", True),
    errors.WrongContentType: (415, "invalid_request_error", "unsupported_media_type", False),
    errors.UnsupportedContentEncoding: (415, "invalid_request_error", "unsupported_content_encoding", False),
    errors.AccessDenied: (401, "authentication_error", "invalid_api_key", False),
    errors.KeyForbids: (403, "permission_error", "model_not_allowed", False),
    errors.AccountSuspended: (403, "permission_error", "account_suspended", False),
    errors.BudgetExceeded: (402, "insufficient_quota", "budget_exceeded", False),
    errors.InsufficientBalance: (402, "insufficient_quota", "insufficient_balance", False),
    errors.IdempotencyMismatch: (422, "invalid_request_error", "idempotency_mismatch", False),
    errors.IdempotencyInFlight: (409, "invalid_request_error", "idempotency_in_flight", True),
    errors.IdempotencySpent: (409, "invalid_request_error", "idempotency_spent", False),
    errors.Overloaded: (503, "server_error", "overloaded", True),
    errors.EngineFull: (503, "server_error", "overloaded", True),
    errors.ReportTooLarge: (503, "server_error", "report_too_large", False),
    errors.RateLimited: (429, "rate_limit_error", "rate_limit_exceeded", True),
    errors.EngineError: (502, "server_error", "upstream_error", True),
    errors.EngineLost: (502, "server_error", "upstream_error", True),
    errors.EngineRefused: (400, "invalid_request_error", "invalid_request", False),
    errors.EngineRateLimited: (429, "rate_limit_error", "rate_limit_exceeded", True),
    errors.EngineUnavailable: (502, "server_error", "upstream_error", True),
    errors.EngineBroken: (502, "server_error", "upstream_error", True),
    errors.EngineTimeout: (504, "server_error", "upstream_timeout", True),
}


def make(kind: type[ServiceError]) -> ServiceError:
    if kind is errors.InsufficientBalance:
        return errors.InsufficientBalance("too poor", needed=5, available=3)
    if kind is errors.BudgetExceeded:
        return errors.BudgetExceeded("spent", needed=5, left=3)
    if kind is errors.KeyForbids:
        return errors.KeyForbids("not this one", param="model", code="model_not_allowed")
    if kind is errors.EngineRateLimited:
        return errors.EngineRateLimited("slow down", retry_after_s=7)
    if kind is errors.EngineLost:
        return errors.EngineLost("gone", retry_after_s=7)
    if kind is errors.AccountSuspended:
        return errors.AccountSuspended("suspended")
    return kind("it is so", param="model", retry_after_s=7)


def descendants(kind: type[ServiceError]) -> set[type[ServiceError]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_every_error_that_a_caller_can_see_is_documented() -> None:
    # ClientLeft is nobody's answer: its caller is gone.
    assert descendants(ServiceError) - {errors.ClientLeft} == set(PROMISED)


@pytest.mark.parametrize("kind", PROMISED, ids=lambda kind: kind.__name__)
def test_an_error_has_its_documented_status_type_and_code(kind: type[ServiceError]) -> None:
    status, type_, code, retryable = PROMISED[kind]
    error = make(kind)
    assert status_and_type(error) == (status, type_)
    assert (error.code, error.retryable) == (code, retryable)
    assert json.loads(error_body(error)) == {
        "error": {"message": error.message, "type": type_, "param": error.param, "code": code}
    }


def test_no_row_of_the_table_hides_a_later_one() -> None:
    for place, (kind, _, _) in enumerate(TABLE):
        assert not any(issubclass(kind, earlier) for earlier, _, _ in TABLE[:place]), kind


def test_retry_after_is_sent_if_a_retry_makes_sense() -> None:
    assert error_headers(errors.Overloaded("full", retry_after_s=5)) == [(b"retry-after", b"5")]
    assert error_headers(errors.InvalidRequest("no")) == []


def test_a_401_says_how_to_authenticate() -> None:
    assert (b"www-authenticate", b"Bearer") in error_headers(errors.AccessDenied("who?"))


def test_the_operator_is_at_fault_for_a_5xx_and_for_the_rate_limit_of_an_upstream() -> None:
    for kind, status, _ in TABLE:
        assert kind.is_fault == (status >= 500 or kind is errors.EngineRateLimited), kind
    # The caller asked for too much.
    assert not errors.ReportTooLarge("too long").is_fault
