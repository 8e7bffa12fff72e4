"""What is supervised is started again, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging

import pytest

from minitoolai.engines.supervision import Supervised


class Fragile(Supervised):
    """Ends at once in the way that `ends` says, until nothing is left of it; one start in between fails."""

    def __init__(self) -> None:
        super().__init__("fragile")
        self.ends: list[str | Exception] = ["exited", RuntimeError("its head is away")]
        self.starts = 0

    async def _start_once(self) -> None:
        self.starts += 1
        if self.starts == 3:
            raise RuntimeError("its head is away")
        self.is_up = True

    async def _release(self) -> None: ...

    async def _wait_for_end(self) -> str | None:
        if not self.ends:
            await asyncio.Event().wait()
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


def test_an_error_that_nobody_expected_ends_no_supervision(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        fragile = Fragile()
        await fragile.start()
        fragile.ends.append("exited again")
        async with asyncio.timeout(10):
            while fragile.starts < 4 or fragile.ends:
                await asyncio.sleep(0.02)
        assert fragile.is_up
        await fragile.stop()
        assert not fragile.is_up

    with caplog.at_level(logging.ERROR):
        asyncio.run(test())
    assert "fragile: watching it failed unexpectedly" in caplog.text
    assert "fragile failed to restart unexpectedly, will retry" in caplog.text
