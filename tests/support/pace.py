"""Measure how slow this machine is just now, so that a limit in milliseconds means the same on every machine.

A limit was set on one machine. Another one, or the same one beside a busy neighbour, may need twice the time for the
same code, which is no fault of the code. So a test of time allows its limit times the slowness of the machine.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib

#: Milliseconds that `_piece` takes on the machine on which the limits were set, with Debian's Python 3.11.2.
REFERENCE_MS = 22.0
#: A limit is never allowed more than this times, however slow the machine is: a test must be able to fail.
MOST = 3.0
#: The fastest of so many pieces counts.
PIECES = 3


def slowness() -> float:
    """Return how many times longer this machine takes for a fixed piece of work, from 1.0 to `MOST`.

    The fastest of several pieces counts: an interruption of one of them says nothing about the others.
    """
    return min(MOST, max(1.0, min(_piece_ms() for _ in range(PIECES)) / REFERENCE_MS))


def _piece_ms() -> float:
    began_s = time.perf_counter()
    _piece()
    return (time.perf_counter() - began_s) * 1000


def _piece() -> None:
    """Do what a request does, again and again: plain Python above all, some JSON and SQL, and bytes."""
    rows = []
    for number in range(24_000):
        fields = {"id": number, "name": f"model {number % 7}", "cost": number * 600 + 150}
        if fields["cost"] % 3:
            fields["cost"] += len(str(fields["name"]).split(" ", 1)[0])
        rows.append((fields["id"], fields["name"], fields["cost"]))
    for _ in range(120):
        json.loads(json.dumps([{"role": "user", "content": "Hello", "rows": row} for row in rows[:40]]))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE work (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cost INTEGER NOT NULL)")
    connection.executemany("INSERT INTO work VALUES (?, ?, ?)", rows[:6_000])
    for _ in range(8):
        connection.execute("SELECT name, sum(cost), count(*) FROM work GROUP BY name ORDER BY 2").fetchall()
    connection.close()
    data = b"".join(b"data: %d words and more words\n\n" % number for number in range(6_000))
    hashlib.sha256(data).digest()
    zlib.compress(data, 1)


class TimeLimit:
    """A limit of a test that measures time, larger on a slow machine. Make one right before measuring.

    The machine is measured when the limit is made, and again when something took longer than that allows, because its
    speed may have changed meanwhile. The slower one counts.
    """

    def __init__(self, limit: float, unit: str = "ms") -> None:
        self.base, self.unit = limit, unit
        self.slowness = slowness()

    @property
    def allowed(self) -> float:
        return self.base * self.slowness

    def permits(self, found: float) -> bool:
        """Return True if this is not above the limit, in the unit of the limit."""
        if found > self.allowed:
            self.slowness = max(self.slowness, slowness())
        return found <= self.allowed

    def __str__(self) -> str:
        return f"{self.allowed:.4g} {self.unit} allowed: {self.base:g} on a machine {self.slowness:.2f} times as fast"
