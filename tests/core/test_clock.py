"""Names for new rows: in order, never twice, and readable from outside as gen-…"""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.clock import SystemClock, base62, from_base62, generation_name, parse_generation_name, random_text


def test_identifiers_only_ever_grow_even_in_one_millisecond() -> None:
    clock = SystemClock()
    drawn = [clock.new_id() for _ in range(20_000)]
    assert all(earlier < later for earlier, later in itertools.pairwise(drawn))
    assert drawn[-1] < 2**63


def test_identifiers_sort_by_the_time_they_were_drawn() -> None:
    first = SystemClock().new_id()
    time.sleep(0.005)
    assert SystemClock().new_id() > first


def test_a_clock_set_back_still_moves_forward() -> None:
    class Erratic(SystemClock):
        now = 2_000_000_000_000

        def now_ms(self) -> int:
            return self.now

    clock = Erratic()
    first = clock.new_id()
    clock.now -= 3_600_000
    assert clock.new_id() > first


def test_two_processes_in_one_millisecond_do_not_draw_the_same() -> None:
    assert len({SystemClock().new_id() for _ in range(2000)}) > 1990


@given(st.integers(0, 2**63 - 1))
def test_every_identifier_has_a_name_that_leads_back_to_it(number: int) -> None:
    name = generation_name(number)
    assert len(name) == 15
    assert parse_generation_name(name) == number
    assert from_base62(base62(number)) == number


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gen-",
        "gen-" + "z" * 11,
        "gen-00000000000a",
        "gen-0000000000é",
        "gen-0 000",
        "00000000001",
        "job-00000000001",
    ],
)
def test_anything_else_is_no_name(name: str) -> None:
    assert parse_generation_name(name) is None


def test_random_text_is_letters_and_digits_and_never_the_same() -> None:
    drawn = {random_text(32) for _ in range(100)}
    assert len(drawn) == 100
    assert all(len(text) == 32 and text.isascii() and text.isalnum() for text in drawn)


def test_the_system_clock_agrees_with_the_machine() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1000) < 1000
    assert 0 <= clock.steady_s() - time.monotonic() + 1 < 2


def test_processes_with_numbers_never_draw_the_same_identifier() -> None:
    class Still(SystemClock):
        def now_ms(self) -> int:
            return 2_000_000_000_000

    drawn: list[int] = []
    for number in (0, 1, 2, 255):
        clock = Still()
        clock.process_number = number
        mine = [clock.new_id() for _ in range(20_000)]
        # Also past the share of one millisecond: then it goes on in the next.
        assert all(earlier < later for earlier, later in itertools.pairwise(mine))
        drawn += mine
    assert len(set(drawn)) == len(drawn)
    assert max(drawn) < 2**63


def test_leases_follow_the_database_server_else_the_monotonic_clock() -> None:
    clock = SystemClock()
    assert -2 < clock.lease_ms() - time.monotonic() * 1000 <= 1000
    clock.follow(5_000_000_000, clock.steady_s())
    assert 0 <= clock.lease_ms() - 5_000_000_000 < 1000
    # A report that took a while on its way: the lease is rather a little too long.
    clock.follow(5_000_000_000, clock.steady_s() - 2.0)
    assert 2000 <= clock.lease_ms() - 5_000_000_000 < 3000
