"""Passwords: argon2id, one form on every keyboard, and turns that let an attack delay itself."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Coroutine
from typing import Any

import pytest

from minitoolai.accounts import passwords as module
from minitoolai.accounts.passwords import TRUSTED_S, Passwords, hash_password
from minitoolai.core.errors import InvalidRequest, Overloaded

PASSWORD = "correct horse"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


class Turns(Passwords):
    """Passwords that hash nothing: `start` occupies a thread or waits, and `finish` frees one."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now_s)
        self.now_s = 0.0
        self.begun: list[str] = []

    def start(self, name: str, delay_s: float = 0.0) -> asyncio.Task[None]:
        async def take() -> None:
            await self._take_turn(delay_s)
            self.begun.append(name)

        return asyncio.create_task(take())

    async def finish(self) -> None:
        self._release()
        await asyncio.sleep(0)

    async def finish_all(self) -> None:
        while self._running:
            await self.finish()


@pytest.mark.parametrize("password", ["", "1234567", "x" * 201])
def test_a_password_of_a_wrong_length_is_refused(password: str) -> None:
    with pytest.raises(InvalidRequest, match="characters") as refusal:
        hash_password(password)
    assert refusal.value.param == "password"


def test_a_password_matches_however_a_keyboard_composes_it() -> None:
    typed = "pässwörd\u00a0één"

    async def work() -> None:
        passwords = Passwords()
        kept = await passwords.hash(unicodedata.normalize("NFD", typed))
        assert await passwords.verify(kept, typed)
        assert await passwords.verify(kept, unicodedata.normalize("NFD", typed))
        assert await passwords.verify(kept, typed.replace("\u00a0", " "))
        assert not await passwords.verify(kept, "password een")
        passwords.close()

    run(work())


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_hash_from_before_still_verifies(form: Any) -> None:
    typed = unicodedata.normalize(form, "pässwörd\u3000één")

    async def work() -> None:
        passwords = Passwords()
        assert await passwords.verify(module._hasher().hash(typed), typed)
        passwords.close()

    run(work())


def test_waiting_callers_go_by_arrival_and_delay() -> None:
    async def work() -> None:
        turns = Turns()
        tasks = [
            turns.start("running 1"),
            turns.start("running 2"),
            turns.start("attack 1", 4.0),
            turns.start("attack 2", 4.0),
        ]
        await asyncio.sleep(0)
        turns.now_s = 1.0
        tasks += [turns.start("typing error", 0.5), turns.start("first try"), turns.start("known browser", TRUSTED_S)]
        await asyncio.sleep(0)
        turns.now_s = 4.5
        # Whoever waits long enough goes before a new arrival: nobody starves.
        tasks.append(turns.start("late"))
        await asyncio.sleep(0)
        assert turns.begun == ["running 1", "running 2"]
        await turns.finish_all()
        assert turns.begun[2:] == ["known browser", "first try", "typing error", "attack 1", "attack 2", "late"]
        await asyncio.gather(*tasks)

    run(work())


def test_where_too_many_wait_the_last_in_turn_is_refused() -> None:
    async def work() -> None:
        turns = Turns()
        tasks = [turns.start(f"attack {n}", 4.0) for n in range(module.HASHING_THREADS + module.MAX_WAITING)]
        await asyncio.sleep(0)
        refused = turns.start("attack too many", 4.0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="Too many sign-ins"):
            await refused
        good = turns.start("good")
        await asyncio.sleep(0)
        await turns.finish()
        assert turns.begun[-1] == "good"
        await turns.finish_all()
        results = await asyncio.gather(*tasks, good, return_exceptions=True)
        assert sum(isinstance(result, Overloaded) for result in results) == 1

    run(work())


def test_a_caller_that_leaves_gives_its_turn_back() -> None:
    async def work() -> None:
        turns = Turns()
        running = [turns.start("a"), turns.start("b")]
        leaves, stays = turns.start("leaves"), turns.start("stays")
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.sleep(0)
        await turns.finish()
        assert turns.begun == ["a", "b", "stays"]
        # Cancelled in the moment in which it was woken.
        late, last = turns.start("late"), turns.start("last")
        await asyncio.sleep(0)
        turns._release()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        await asyncio.sleep(0)
        assert turns.begun[-1] == "last"
        await turns.finish_all()
        assert turns._running == 0
        await asyncio.gather(*running, stays, last)

    run(work())


def test_hashes_that_run_are_few_even_if_their_callers_leave() -> None:
    async def work() -> None:
        passwords = Passwords()
        tasks = [asyncio.create_task(passwords.verify(None, PASSWORD)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert passwords._running == module.HASHING_THREADS
        assert await passwords.verify(await passwords.hash(PASSWORD), PASSWORD)
        await asyncio.sleep(0)
        assert passwords._running == 0
        passwords.close()

    run(work())


def test_the_hash_is_argon2id() -> None:
    assert re.match(r"\$argon2id\$v=19\$", hash_password(PASSWORD))
