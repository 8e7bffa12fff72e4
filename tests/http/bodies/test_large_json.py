"""Large bodies: counted before they are decoded, decoded in short steps, and decoded to what msgspec makes of them."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import msgspec
import pytest

from minitoolai.core.errors import BodyTooLarge, InvalidRequest, TooComplex
from minitoolai.http.bodies.large_json import MOST_NODES, MOST_TEXT, PIECE, decode_in_pieces, is_quick
from minitoolai.http.validation import SMALL_BODY, json_object

SCALARS = [
    "0", "-1", "1.5", "1e5", "4.9e-324", "true", "false", "null", '""', '"a"', '"\\""', '"\\\\"', '"a\\\\\\"b,[{"',
    '"]}"', '"\\u00e9é😀"', f'"{"x" * 40}"', '"\\/"', "123456789012345678901234567890",
]  # fmt: skip
KEYS = ['"a"', '"b"', '"c,"', '"\\""', '"{"', '""']


def blank(dice: random.Random) -> str:
    return dice.choice(["", "", " ", "\n", "\t \r"])


def document(dice: random.Random, depth: int = 0) -> str:
    """Random JSON: an object or a list at the top."""
    kind = dice.random()
    if depth and (depth > 6 or kind < 0.35):
        return dice.choice(SCALARS)
    children = [
        f"{blank(dice)}{document(dice, depth + 1)}{blank(dice)}" for _ in range(dice.choice([0, 0, 1, 2, 3, 5]))
    ]
    if kind < 0.7:
        return f"[{blank(dice)}{','.join(children)}]"
    members = (f"{blank(dice)}{dice.choice(KEYS)}{blank(dice)}:{child}" for child in children)
    return f"{{{blank(dice)}{','.join(members)}}}"


def damaged(dice: random.Random, body: bytes) -> bytes:
    """The same with up to three random edits."""
    text = bytearray(body)
    for _ in range(dice.randint(1, 3)):
        at, other = sorted((dice.randrange(len(text) + 1), dice.randrange(len(text) + 1)))
        edit = dice.random()
        if edit < 0.35:
            del text[at : at + 1]
        elif edit < 0.7:
            text[at:at] = bytes([dice.choice(b'[]{},:"\\ 0a\xff')])
        else:
            text[at:at] = text[at:other]
    return bytes(text)


def outcome(decode: Any, body: bytes) -> Any:
    try:
        return repr(decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "refused"
    except InvalidRequest as error:
        return "refused" if error.code == "invalid_json" else repr(error)


@pytest.mark.parametrize("piece", [1, 3, 8, 16, 64])
def test_pieces_give_what_one_call_gives(piece: int) -> None:
    dice = random.Random(piece)
    accepted = refused = 0
    for _ in range(400):
        whole = f"{blank(dice)}{document(dice)}{blank(dice)}".encode()
        for body in (whole, *(damaged(dice, whole) for _ in range(4))):
            expected = outcome(msgspec.json.decode, body)
            found = outcome(partial(decode_in_pieces, size=piece), body)
            if expected == "refused":
                refused += 1
            elif expected[0] not in "[{":
                expected = "refused"
            else:
                accepted += 1
            assert found == expected, body
    assert accepted > 400
    assert refused > 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[1,2],"b":[3,4]', b'{"a":[1,2]]}', b'{"a":[1,2},"b":1]', b"[[1,2][3,4]]", b"[[1,2],]", b"[,[1,2]]",
        b"[[1,2],,3]", b'{"a":1{"b":2}}', b'{"a" [1,2]}', b"{[1,2]:3}", b'{"a":[1,2] "b":3}', b"[1,2] [3]", b"[1,2] x",
        b"x [1,2]", b"]", b'{"a":"b', b'{"a":"b\\"}', b'["a\\"]', b"", b"   ",
    ],
)  # fmt: skip
def test_what_is_between_two_pieces_is_checked(body: bytes) -> None:
    assert outcome(msgspec.json.decode, body) == "refused"
    assert outcome(partial(decode_in_pieces, size=1), body) == "refused"


def test_no_step_is_long() -> None:
    steps: list[int] = []

    def decode(piece: bytes) -> Any:
        steps.append(len(piece))
        return msgspec.json.decode(piece)

    flat = {f"key {number}": number for number in range(60_000)}
    nested = [[{"a": [1, 2, {"b": "c" * 20}]}] for _ in range(15_000)]
    fields = {"flat": flat, "text": "x" * 400_000, "nested": nested}
    body = json.dumps(fields).encode()
    assert not is_quick(body)
    assert decode_in_pieces(body, decode=decode) == fields
    assert len(steps) > 15
    # A string is not split; everything else is.
    assert sorted(steps)[-2] < PIECE + 200
    assert max(steps) < 400_000 + PIECE


def test_a_body_of_a_few_long_texts_is_decoded_in_one_call() -> None:
    fields = {"messages": [{"role": "user", "content": "One sentence, and another one after it.\n" * 1000}] * 10}
    body = json.dumps(fields).encode()
    assert len(body) > MOST_NODES
    assert is_quick(body)
    assert json_object(body) == fields
    assert not is_quick(b"[%b]" % (b"[]," * 100_000))
    assert not is_quick(b"{%b}" % (b'"a":0,' * 50_000))


def list_of(nodes: int, filler: str = "") -> bytes:
    """A body with exactly so many lists, objects and commas."""
    return b'{"a":"%b","b":[%b1]}' % (filler.encode(), b"1," * (nodes - 3))


def test_as_many_nodes_as_allowed_pass_and_one_more_does_not() -> None:
    assert len(json_object(list_of(MOST_NODES))["b"]) == MOST_NODES - 2
    with pytest.raises(TooComplex, match="200,001 lists, objects and commas, and may have 200,000") as refused:
        json_object(list_of(MOST_NODES + 1))
    assert refused.value.code == "too_complex"


def test_marks_inside_of_strings_do_not_count() -> None:
    filler = '[{,\\"\\\\' * 100_000
    assert len(json_object(list_of(MOST_NODES, filler))["b"]) == MOST_NODES - 2
    with pytest.raises(TooComplex, match="200,001"):
        json_object(list_of(MOST_NODES + 1, filler))


@pytest.mark.parametrize("unit", [b"[],", b'{"a":0},', b'"",', b"[[[[]]]],", b'{"a":{"a":{}}},'])
def test_too_many_of_anything_are_refused(unit: bytes) -> None:
    with pytest.raises(TooComplex):
        json_object(b'{"a":[' + unit * 200_001 + b"0]}")


@pytest.mark.parametrize("size", [SMALL_BODY // 4, SMALL_BODY * 4, 2_000_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_any_depth_is_refused_in_words(size: int, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    levels = size // (len(opening) + 1)
    nested = opening * levels + b"0" + closing * levels
    with pytest.raises(InvalidRequest, match=r"nested|lists, objects") as refused:
        json_object(b'{"a":' + nested + b"}")
    assert refused.value.code in ("invalid_json", "too_complex")


@pytest.mark.parametrize("depth", [63, 64])
@pytest.mark.parametrize("padding", [0, SMALL_BODY, 1_500_000])
def test_the_deepest_allowed_is_the_same_for_bodies_of_all_sizes(depth: int, padding: int) -> None:
    body = b'{"a":' + b"[" * depth + b"]" * depth + b',"b":"%b"}' % (b"x" * padding)
    if depth == 63:
        assert len(json_object(body)["b"]) == padding
    else:
        with pytest.raises(InvalidRequest, match="nested more than 64 levels deep"):
            json_object(body)


@pytest.mark.parametrize("padding", [0, 2 * SMALL_BODY])
@pytest.mark.parametrize("number", [b"1e400000", b"-1e999", b"1" * 5000])
def test_a_number_that_is_too_large_is_refused(number: bytes, padding: int) -> None:
    with pytest.raises(InvalidRequest, match="out of range") as refused:
        json_object(b'{"a":%b,"b":"%b"}' % (number, b"x" * padding))
    assert refused.value.code == "invalid_json"


def test_a_large_body_has_no_integers_that_take_long_to_write() -> None:
    fields = {"a": [10**308, -(10**308)], "b": "x" * SMALL_BODY}
    assert json_object(json.dumps(fields).encode()) == fields
    fields["a"] = [{"c": 10**309}]
    with pytest.raises(InvalidRequest, match="more than 308 digits"):
        json_object(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "number", ["4.9e-324", "1.7976931348623157e308", "-0.0", "0.1", "1e-400", "9007199254740993.0"]
)
def test_numbers_are_as_exact_as_pythons(number: str) -> None:
    found = json_object(f'{{"a":{number}}}'.encode())["a"]
    assert repr(found) == repr(float(number))


@pytest.mark.parametrize(
    "body", [b" " * 300_000, b"1" * 300_000, b'"%b"' % (b"a" * 300_000), b"\0" * 300_000, b"[]" + b" " * 300_000]
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        json_object(body)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_text_that_is_no_unicode_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON") as refused:
        json_object(b'{"a":"%b\xff"}' % (b"a" * size))
    assert refused.value.code == "invalid_json"
    assert len(refused.value.message) < 200


def test_too_much_text_is_refused() -> None:
    around = len(b'{"a":""}')
    assert json_object(b'{"a":"%b"}' % (b"a" * (MOST_TEXT - around)))
    with pytest.raises(BodyTooLarge, match="4 MB besides images in base64"):
        json_object(b'{"a":"%b"}' % (b"a" * (MOST_TEXT - around + 1)))


def test_of_two_members_of_one_name_the_last_counts() -> None:
    body = b'{"a":[%b0],%b"a":1}' % (b"1," * 70_000, b'"k":[1,2],' * 40_000)
    assert json_object(body) == {"a": 1, "k": [1, 2]}
