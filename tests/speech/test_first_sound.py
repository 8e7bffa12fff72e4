"""How soon the first sound arrives, end to end: request, price, voice, encoder, connection."""

from __future__ import annotations

import http.client
import json
import time
from statistics import median

import pytest

from tests.support.pace import TimeLimit
from tests.support.server import Account

pytestmark = [pytest.mark.acceptance, pytest.mark.timing]

TEXTS = [
    "The old lighthouse keeper climbed the stairs every evening before sunset. Then he lit the lamp.",
    "Good morning, everyone, and welcome back to the show.",
    "Please leave the package beside the green door, and ring the bell. Nobody will answer, but that is fine.",
    "Your order of 3 items for $45.90 will arrive on May 5, between 9:00 and 11:30 a.m.",
]
#: The aim is 40 ms on a quiet machine; others may keep a core busy.
MOST_MS = 60


def first_sound_ms(account: Account, text: str, form: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", account.server.port, timeout=30)
    connection.connect()
    body = json.dumps({"model": "tts-1", "input": text, "response_format": form})
    started_s = time.perf_counter()
    connection.request("POST", "/v1/audio/speech", body, {**account.headers, "content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.read(1)
    waited_s = time.perf_counter() - started_s
    response.read()
    connection.close()
    return waited_s * 1000


@pytest.mark.parametrize("form", ["mp3", "pcm", "wav"])
def test_the_first_sound_comes_at_once(account: Account, form: str) -> None:
    first_sound_ms(account, TEXTS[1], form)
    limit, found = TimeLimit(MOST_MS), list[float]()
    for _ in range(3):
        found.append(median(first_sound_ms(account, text, form) for _ in range(8) for text in TEXTS))
        if limit.permits(found[-1]):
            break
    each = [round(median(first_sound_ms(account, text, form) for _ in range(8)), 1) for text in TEXTS]
    print(f"first sound of {form}: median {found[-1]:.1f} ms; by text {each}; {limit}")
    assert limit.permits(min(found)), f"{found}; {limit}"
