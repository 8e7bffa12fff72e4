"""Validation of JSON fields: every error names the field and the allowed values."""

from __future__ import annotations

import json

import pytest

from minitoolai.core.errors import InvalidRequest
from minitoolai.http.validation import DEEPEST, expected, flag, integer, json_object, non_empty_text, number, shortened


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff{}", b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        json_object(body)
    assert refusal.value.code == "invalid_json"


def test_nesting_is_allowed_up_to_the_limit_exactly() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)

    assert "a" in json_object(nested(DEEPEST))
    with pytest.raises(InvalidRequest, match=f"more than {DEEPEST} levels deep"):
        json_object(nested(DEEPEST + 1))


def test_many_shallow_objects_are_not_nesting() -> None:
    assert len(json_object(b'{"a":[' + b"{}," * 1000 + b"{}]}")["a"]) == 1001


@pytest.mark.parametrize("value", [None, "", 4, ["x"]])
def test_a_required_text_must_be_a_non_empty_string(value: object) -> None:
    with pytest.raises(InvalidRequest, match="model must be a non-empty string") as refusal:
        non_empty_text({"model": value}, "model")
    assert refusal.value.param == "model"
    assert non_empty_text({"model": "quick"}, "model") == "quick"


def test_a_flag_is_a_boolean_or_absent() -> None:
    assert flag({"stream": True}, "stream", default=False)
    assert flag({}, "stream", default=True)
    assert flag({"stream": None}, "stream", default=True)
    for value in ("true", 1, 0, []):
        with pytest.raises(InvalidRequest, match=r"options\.stream must be true or false") as refusal:
            flag({"stream": value}, "stream", default=False, inside="options.")
        assert refusal.value.param == "options.stream"


@pytest.mark.parametrize("value", [0, 2, 1.5])
def test_a_number_may_reach_both_bounds(value: float) -> None:
    assert number({"temperature": value}, "temperature", 0, 2) == value


@pytest.mark.parametrize("value", [-0.1, 2.1, "1", True, float("nan"), 10**400, -(10**400)])
def test_any_other_number_is_refused_with_its_bounds(value: object) -> None:
    with pytest.raises(InvalidRequest, match="from 0 to 2") as refusal:
        number({"temperature": value}, "temperature", 0, 2)
    assert refusal.value.param == "temperature"


def test_a_whole_float_becomes_an_integer_in_place() -> None:
    fields = {"n": 4.0}
    assert integer(fields, "n", 1, 8) == 4
    assert type(fields["n"]) is int
    assert integer({}, "n", 1, 8) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "n is 0; it must be at least 1"),
        (9, "n is 9; it must be at most 8"),
        (2.5, "n must be a whole number"),
        (True, "n must be a whole number"),
        ("4", "n must be a whole number"),
        (10**400, "n is out of range; it must be at most 8"),
        (float("nan"), "n must be a whole number"),
        (float("inf"), "n must be a whole number"),
    ],
)
def test_a_wrong_integer_is_refused_with_the_bound_it_breaks(value: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        integer({"n": value}, "n", 1, 8)


def test_a_long_value_is_quoted_in_part() -> None:
    assert shortened("x") == "'x'"
    assert [shortened(value) for value in (False, None, [], {"a": [True]}, 1.5)] == [
        "false",
        "null",
        "[]",
        '{"a": [true]}',
        "1.5",
    ]
    assert expected("a string", False) == "expected a string, got false"
    assert len(shortened("x" * 1000)) == 58
    assert shortened("x" * 1000).endswith("…")


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_byte_order_mark_is_skipped(size: int) -> None:
    text = "x" * size
    assert json_object(b"\xef\xbb\xbf" + json.dumps({"a": text}).encode()) == {"a": text}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_than_utf_8_is_named(encoding: str) -> None:
    with pytest.raises(InvalidRequest, match="UTF-") as refused:
        json_object('{"a": 1}'.encode(encoding))
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf", b"\xef", b"\xef\xbb\xbf\xef\xbb\xbf{}", b"\xff\xff{}", b"\xfe\xff"])
def test_no_more_than_one_mark_is_skipped(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        json_object(body)
