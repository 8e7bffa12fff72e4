"""Saved prompts belong to one member of one account, and are limited in number."""

from __future__ import annotations

import msgspec

from minitoolai.storage.tables import saved_prompts
from minitoolai.storage.tables.saved_prompts import SavedPrompt
from tests.support.books import TemporaryBooks

HELLO = SavedPrompt(1, "Hello", "small", "Be kind.", "Hi!", {"temperature": "0.5"}, 10)


def test_a_prompt_is_seen_changed_and_deleted_by_its_member_in_its_account_only(books: TemporaryBooks) -> None:
    account, member, other = books.account(0), books.account(0), books.account(0)
    connection = books.connection
    assert saved_prompts.insert(connection, account, member, HELLO, 5)
    changed = msgspec.structs.replace(HELLO, name="Bye", settings={}, changed_ms=11)
    for place in ((account, other), (other, member)):
        assert saved_prompts.of_member(connection, *place) == []
        assert saved_prompts.find(connection, *place, 1) is None
        assert not saved_prompts.update(connection, *place, changed)
        assert not saved_prompts.delete(connection, *place, 1)
    assert saved_prompts.find(connection, account, member, 1) == HELLO
    assert saved_prompts.update(connection, account, member, changed)
    assert saved_prompts.of_member(connection, account, member) == [changed]
    assert saved_prompts.delete(connection, account, member, 1)
    assert not saved_prompts.delete(connection, account, member, 1)


def test_the_limit_counts_the_prompts_of_a_member_not_of_the_account(books: TemporaryBooks) -> None:
    account, ann, bob = books.account(0), books.account(0), books.account(0)
    for number in range(1, 4):
        prompt = msgspec.structs.replace(HELLO, id=number)
        assert saved_prompts.insert(books.connection, account, ann, prompt, 2) is (number <= 2)
    assert saved_prompts.insert(books.connection, account, bob, msgspec.structs.replace(HELLO, id=9), 2)


def test_the_prompt_changed_last_is_first(books: TemporaryBooks) -> None:
    account = books.account(0)
    for number, changed_ms in ((1, 10), (2, 30), (3, 20), (4, 30)):
        prompt = msgspec.structs.replace(HELLO, id=number, changed_ms=changed_ms)
        saved_prompts.insert(books.connection, account, account, prompt, 9)
    assert [one.id for one in saved_prompts.of_member(books.connection, account, account)] == [4, 2, 3, 1]
