"""Test lines that sum up a minute."""

from __future__ import annotations

import asyncio
import logging

import pytest

from minitoolai.core.telemetry.logs import SummedLog

log = logging.getLogger("tests.sums")


def test_events_of_a_period_are_one_line_for_each_value(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work() -> None:
        sums = SummedLog(log, logging.INFO, "%s failed: %d times", period_s=0.05)
        for _ in range(532):
            sums.add("far")
        sums.add("near")
        assert caplog.messages == []
        await asyncio.sleep(0.1)
        assert caplog.messages == ["far failed: 532 times", "near failed: 1 times"]
        sums.add("far")
        sums.flush()
        assert caplog.messages[2:] == ["far failed: 1 times"]
        await asyncio.sleep(0.1)
        assert len(caplog.messages) == 3

    asyncio.run(work())
