"""Tests of the choice of llama.cpp's slots: conversations find theirs again, and accounts share nothing."""

from __future__ import annotations

import random

from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.slots import NO_ACCOUNT, Slot, SlotTable, common_bytes, compared_prompt

SYSTEM = b"You are a helpful assistant. "


def turn(table: SlotTable, account: int, prompt: bytes) -> Slot:
    slot = table.take(account, prompt)
    assert slot is not None
    table.give_back(slot, account, prompt)
    return slot


def test_a_conversation_returns_to_its_slot_whatever_came_between() -> None:
    table = SlotTable(3)
    first = {name: turn(table, 1, SYSTEM + name * 50) for name in (b"a", b"b", b"c")}
    assert sorted(slot.number for slot in first.values()) == [0, 1, 2]
    for name in (b"c", b"a", b"b", b"a"):
        again = turn(table, 1, SYSTEM + name * 50 + b"more")
        assert again == Slot(first[name].number, True)


def test_a_new_conversation_takes_the_slot_that_was_free_for_longest() -> None:
    table = SlotTable(2)
    old, recent = turn(table, 1, b"a" * 50), turn(table, 1, b"b" * 50)
    assert turn(table, 1, SYSTEM + b"x" * 100).number == old.number
    assert turn(table, 1, SYSTEM + b"y" * 100).number == recent.number


def test_a_long_message_stays_with_its_short_conversation() -> None:
    table = SlotTable(2)
    short = turn(table, 1, b'[{"content":"Hello"}]')
    other = turn(table, 1, b'[{"content":"Hi"},' + b"x" * 90)
    assert turn(table, 1, b'[{"content":"Hello"},' + b"y" * 900) == Slot(short.number, True)
    assert turn(table, 1, b'[{"content":"Hi"},' + b"x" * 90 + b"z" * 900) == Slot(other.number, True)


def test_no_account_reuses_what_another_has_sent() -> None:
    table = SlotTable(1)
    assert not turn(table, 1, SYSTEM * 9).may_reuse
    assert turn(table, 1, SYSTEM * 9).may_reuse
    assert not turn(table, 2, SYSTEM * 9).may_reuse
    assert turn(table, 2, SYSTEM * 9).may_reuse
    assert not turn(table, 1, SYSTEM * 9).may_reuse


def test_a_slot_of_unknown_content_is_reused_by_nobody() -> None:
    table = SlotTable(1)
    slot = table.take(1, SYSTEM)
    assert slot is not None
    assert table.take(1, SYSTEM) is None
    table.give_back(slot, NO_ACCOUNT, b"")
    assert not turn(table, 1, SYSTEM).may_reuse


def test_a_conversation_that_goes_on_begins_as_before() -> None:
    messages = [{"role": "user", "content": "How many moons?"}]
    more = [*messages, {"role": "assistant", "content": "Many."}, {"role": "user", "content": "Which?"}]
    before, after = (
        compared_prompt(ChatRequest("m", said, {}, stream=True, include_usage=False, limit=None))
        for said in (messages, more)
    )
    assert common_bytes(before, after) == len(before) - 1
    text = ChatRequest("m", [], {}, stream=True, include_usage=False, limit=None, prompt="Once upon a time")
    assert compared_prompt(text) == b'"Once upon a time"'


def test_the_common_beginning_is_found() -> None:
    chance = random.Random(2)
    for _ in range(500):
        a = bytes(chance.choices(b"ab", k=chance.randrange(12)))
        b = bytes(chance.choices(b"ab", k=chance.randrange(12)))
        expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_bytes(a, b) == expected
