"""Many concurrent streams, and callers that do not read, cause no error and no growth of memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.load import run_load
from tests.support import catalogs
from tests.support.dial import dial
from tests.support.length import length
from tests.support.manners import chunk
from tests.support.pace import TimeLimit
from tests.support.server import ServerProcess
from tests.support.upstream import Exchange, Upstream

# Measures latency and memory under load.
pytestmark = pytest.mark.timing

#: What would be buffered for each slow reader without back-pressure: chunks × bytes.
PIECES, PIECE, READERS = 1500, 16_384, 4


def test_500_streams_of_a_token_a_second_complete_in_flat_memory(tmp_path: Path) -> None:
    seconds = length(10, 15)
    limit = TimeLimit(500.0)
    tally = run_load(tmp_path, 500, seconds)
    print(tally, limit)
    assert tally.violations == []
    assert tally.tokens == 500 * seconds
    # 20 ms cannot be measured on a busy machine; a process blocked for half a second would still be noticed.
    assert limit.permits(tally.median_ms), limit


def test_callers_that_do_not_read_cause_no_memory_growth(serve: Callable[..., ServerProcess]) -> None:
    sent = 0

    async def pour(exchange: Exchange) -> None:
        """Send as fast as the server reads."""
        nonlocal sent
        exchange.begin()
        for _ in range(PIECES):
            while exchange._connection.transport.get_write_buffer_size() > 4 * PIECE:
                if exchange.gone.is_set():
                    return
                await asyncio.sleep(0.01)
            exchange.event(chunk({"content": "x" * PIECE}))
            sent += PIECE
        exchange.event("[DONE]")
        exchange.end()

    with Upstream(pour) as upstream:
        server = serve(catalogs.upstream("far", upstream.base_url, "total_timeout_s = 60.0"))
        account = server.account("100")
        before_mb = server.resident_mb()
        readers = [
            dial(account, receive_buffer=4096, model="far", stream=True, max_completion_tokens=4096)
            for _ in range(READERS)
        ]
        try:
            for reader in readers:
                assert reader.recv(1) == b"H"
            taken, still_s = -1, time.monotonic()
            # Wait until the server has read nothing from the upstream for two seconds.
            while time.monotonic() - still_s < 2:
                if sent != taken:
                    taken, still_s = sent, time.monotonic()
                time.sleep(0.1)
            grown_mb = server.resident_mb() - before_mb
        finally:
            for reader in readers:
                reader.close()
        print(
            f"{sent / 1e6:.0f} of {READERS * PIECES * PIECE / 1e6:.0f} MB were read; memory grew by {grown_mb:.0f} MB"
        )
        # Kernel buffers on both sides hold some; most was never read.
        assert sent < READERS * PIECES * PIECE / 2
        assert grown_mb < 30
        account.settled(within_s=15)
