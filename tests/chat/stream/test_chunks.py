"""Usage and fingerprint of the chunks that are sent."""

from __future__ import annotations

import re

import msgspec
import pytest

from minitoolai.chat.stream.chunks import fingerprint, full_usage
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage


def test_usage_is_complete_and_its_total_is_ours() -> None:
    full = full_usage(Usage(3, 5, 99))
    assert full.total_tokens == 8
    assert full.prompt_tokens_details == TokenDetails()
    assert full.completion_tokens_details == CompletionDetails()


def test_details_of_the_engine_stay_but_for_those_that_only_the_price_needs() -> None:
    read = TokenDetails(cached_tokens=2, cache_write_1h_tokens=7)
    written = CompletionDetails(reasoning_tokens=4)
    full = full_usage(Usage(3, 5, 8, read, written))
    assert full.prompt_tokens_details is not None
    assert full.prompt_tokens_details.cached_tokens == 2
    assert full.prompt_tokens_details.cache_write_1h_tokens is msgspec.UNSET
    assert full.completion_tokens_details == written
    assert read.cache_write_1h_tokens == 7


def test_a_fingerprint_in_the_documented_form_is_forwarded() -> None:
    assert fingerprint("a", "fp_44709d6fcb") == "fp_44709d6fcb"


@pytest.mark.parametrize("reported", [None, "", "b9a1", "FP_1"])
def test_any_other_fingerprint_depends_on_the_model_and_on_the_engines(reported: str | None) -> None:
    mine = fingerprint("a", reported)
    assert re.fullmatch(r"fp_[0-9a-f]{8}", mine)
    assert mine == fingerprint("a", reported)
    assert mine != fingerprint("b", reported)
    assert mine != fingerprint("a", "another")
