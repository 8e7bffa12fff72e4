"""The exception tree: codes, advice to retry, and the picture of it in the module docstring."""

from __future__ import annotations

import re

import pytest

from minitoolai.core import errors
from minitoolai.core.errors import BudgetExceeded, CommitInDoubt, ConnectionLost, InsufficientBalance, ServiceError

CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_the_docstring_names_every_class() -> None:
    documented = set(re.findall(r"\b[A-Z][A-Za-z]+(?=\b)", errors.__doc__ or ""))
    assert CLASSES.keys() - documented == set()


def test_codes_are_words_for_programs() -> None:
    codes = [kind.code for kind in CLASSES.values() if issubclass(kind, ServiceError)]
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
    assert len(set(codes)) > 20


def test_an_error_carries_message_field_and_code() -> None:
    error = errors.InvalidRequest("too long", param="prompt", code="prompt_too_long", retry_after_s=3)
    assert (str(error), error.param, error.code, error.retry_after_s) == ("too long", "prompt", "prompt_too_long", 3)
    assert errors.InvalidRequest("too long").code == "invalid_request"
    assert errors.InvalidRequest.code == "invalid_request"


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.EngineFull, errors.RateLimited, errors.EngineTimeout])
def test_temporary_errors_advise_a_retry(kind: type[ServiceError]) -> None:
    assert kind("later").retryable


@pytest.mark.parametrize("kind", [errors.InvalidRequest, errors.AccessDenied, errors.EngineRefused, errors.ClientLeft])
def test_permanent_errors_do_not_advise_a_retry(kind: type[ServiceError]) -> None:
    assert not kind("no").retryable


def test_refusals_about_money_carry_the_amounts() -> None:
    poor = InsufficientBalance("no", needed=5, available=3)
    assert (poor.needed, poor.available, poor.code) == (5, 3, "insufficient_balance")
    spent = BudgetExceeded("no", needed=5, left=3)
    assert (spent.needed, spent.left, spent.code) == (5, 3, "budget_exceeded")


def test_a_commit_in_doubt_is_a_lost_connection() -> None:
    assert issubclass(CommitInDoubt, ConnectionLost)
