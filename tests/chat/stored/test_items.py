"""Tests of the names of responses and items."""

from __future__ import annotations

import pytest

from minitoolai.chat.stored.items import (
    ItemPlace,
    parse_item_name,
    parse_response_name,
    references_in,
    response_name,
    type_of,
    with_names,
)
from minitoolai.core.clock import generation_name

NUMBER = 201_361_410_611_825_088
SUFFIX = generation_name(NUMBER)[4:]


def test_a_response_is_named_like_its_generation() -> None:
    assert response_name(NUMBER) == f"resp_{SUFFIX}"
    assert parse_response_name(f"resp_{SUFFIX}") == NUMBER


@pytest.mark.parametrize("name", ["", "resp_", "resp_-", "gen-1", f"rest_{SUFFIX}", f"resp_{'z' * 40}", "resp_é"])
def test_other_texts_name_no_response(name: str) -> None:
    assert parse_response_name(name) is None


def test_the_name_of_an_item_says_where_it_is_stored() -> None:
    assert parse_item_name(f"msg_{SUFFIX}_2") == ItemPlace(NUMBER, False, 2)
    assert parse_item_name(f"ctco_{SUFFIX}_i13") == ItemPlace(NUMBER, True, 13)


@pytest.mark.parametrize(
    "name", ["", "msg_1", f"msg_{SUFFIX}", f"msg_{SUFFIX}_x", "msg_zzzzzzzzzzz_1", "rs_" + "0" * 60]
)
def test_other_texts_name_no_item(name: str) -> None:
    assert parse_item_name(name) is None


def test_references_are_found_with_or_without_a_type() -> None:
    items = [{"id": "a"}, {"type": None, "id": "b"}, {"type": "item_reference", "id": "c"}, {"role": "user", "id": "d"}]
    assert references_in(items) == ["a", "b", "c"]
    assert references_in([{"type": "item_reference", "id": 5}, "x", None]) == []
    assert references_in("text") == []
    assert type_of({"role": "user", "content": "x"}) == "message"


def test_listed_items_have_names_and_messages_have_parts() -> None:
    items = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"type": "function_call", "id": "fc_own", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "18"},
        {"type": "item_reference", "id": "msg_other"},
        {"type": "reasoning", "summary": []},
    ]
    listed = with_names(NUMBER, items)
    assert [item["id"] for item in listed] == [
        f"msg_{SUFFIX}_i0", f"msg_{SUFFIX}_i1", "fc_own", f"fco_{SUFFIX}_i3", "msg_other", f"rs_{SUFFIX}_i5",
    ]  # fmt: skip
    assert listed[0]["content"] == [{"type": "input_text", "text": "Hello"}]
    assert listed[1]["content"] == [{"type": "output_text", "text": "Hi", "annotations": []}]
    assert with_names(NUMBER, "Hello")[0] == listed[0]
