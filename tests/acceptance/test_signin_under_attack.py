"""Forty threads guess passwords from many addresses; owners sign in meanwhile, from new and from known browsers."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.support import catalogs
from tests.support.browse import PASSWORD, Forms, Visitor, new_user
from tests.support.pace import TimeLimit
from tests.support.server import ServerProcess

ATTACKERS, OWNERS = 40, 12
#: A sign-in may take two seconds. On a crowded machine, where one alone takes longer, it may take as long as three: it
#: waits for the hashes that run, and for no other.
MAX_S, MAX_ALONE = 2.0, 3
_numbers = itertools.count(1)


def address(rng: random.Random) -> str:
    """An address of the attacker: one of 2,000 of IPv4, or any of one /64."""
    if rng.random() < 0.5:
        return f"203.0.{rng.randrange(8)}.{rng.randrange(250)}"
    return f"2001:db8:bad:1::{rng.randrange(1 << 16):x}"


@contextmanager
def attack(server: ServerProcess, emails: list[str]) -> Iterator[Counter[int]]:
    """Guess for these accounts and for others that do not exist, until the end of the block. Count the statuses."""
    stop, statuses = threading.Event(), Counter[int]()

    def guess(seed: int) -> None:
        rng, browser = random.Random(seed), requests.Session()
        page = browser.get(f"{server.url}/en/signin", timeout=60)
        fields = next(values for action, values in Forms(page.text).found if action.endswith("/signin"))
        while not stop.is_set():
            email = rng.choice(emails) if rng.random() < 0.3 else f"nobody{rng.random()}@example.com"
            sent = browser.post(
                f"{server.url}/en/signin",
                data=fields | {"email": email, "password": f"guess {rng.random()}"},
                headers={"x-forwarded-for": address(rng)},
                timeout=60,
            )
            statuses[sent.status_code] += 1

    threads = [threading.Thread(target=guess, args=(n,)) for n in range(ATTACKERS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(5)
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.acceptance
@pytest.mark.timing
def test_owners_sign_in_while_others_guess(tmp_path: Path) -> None:
    env = {"MINITOOLAI_TRUSTED_PROXIES": "127.0.0.1"}
    with ServerProcess(tmp_path, catalog=catalogs.FAKE, env=env) as server:
        emails = [f"owner{next(_numbers)}@example.com" for _ in range(OWNERS)]
        known = []
        for email in emails:
            new_user(server, email)
            browser = Visitor(server)
            browser.headers["x-forwarded-for"] = f"198.51.100.{len(known)}"
            known.append(browser)
        # Half of the owners have signed in before with this browser: they are attacked by name.
        attacked = emails[: OWNERS // 2]
        alone = []
        for browser, email in zip(known, attacked, strict=False):
            began_s = time.monotonic()
            browser.sign_in(email)
            alone.append(time.monotonic() - began_s)
            assert browser.page.url.endswith("/keys")
            browser.submit("/signout")
        limit = TimeLimit(max(MAX_S, MAX_ALONE * statistics.median(alone)), "s")
        with attack(server, attacked) as statuses:
            took = []
            for browser, email in zip(known, emails, strict=True):
                browser.open("/signin")
                began_s = time.monotonic()
                browser.submit("/signin", email=email, password=PASSWORD)
                took.append(time.monotonic() - began_s if browser.page.url.endswith("/keys") else 999.0)
        assert sum(map(limit.permits, took)) >= OWNERS - 1, f"{took} {alone} {statuses}; {limit}"
        # The attack went on all the time, and none of its guesses was an error of the server.
        assert statuses[422] + statuses[429] > ATTACKERS
        assert set(statuses) <= {422, 429, 503}
