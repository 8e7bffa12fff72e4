"""Rate limits that several processes keep together: each draws units from a row of the database, a few at a time.

A process draws the more, the faster it spends, but at most a tenth of the limit, and returns units that it does not
need. So the limit holds for all processes together, and one connection can use nearly all of it.

Requests in progress are slots, which are held and given back. A process holds them under a lease that it renews, so
that one which dies keeps none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import partial
from weakref import WeakValueDictionary

from minitoolai.core.clock import Clock, random_text
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.storage.tables import shared_limits
from minitoolai.storage.tables.shared_limits import Draw, Drawn, Slots
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Largest part of a limit that one draw takes: one in this many.
SHARE = 10
#: Give back units that were not used for this long.
IDLE_S = 2.0
#: Look for units to give back this often, and for rows to delete after this many looks.
GIVE_BACK_EVERY_S, DELETE_AFTER = 1.0, 60
#: A draw that follows the last one within this time takes twice as much.
FAST_S = 2.0
#: Ask again for units that there were none of after this long: another process may have given some back.
ASK_AGAIN_S = 0.5
#: Draw again in the background once less than this part of the last draw is left.
LOW = 4
MINUTE_S = 60.0
#: Lease of slots, renewed this often. It ends this long after its process has died.
SLOTS_LEASE_MS, RENEW_SLOTS_EVERY_S = 10_000, 3.0


class SharedBuckets:
    """Draw from the buckets that the processes share."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._holding: set[LeasedBucket] = set()
        self._process = random_text(10)
        #: Those that hold or draw slots, and all that are in use.
        self._slots: set[LeasedSlots] = set()
        self._by_name: WeakValueDictionary[str, LeasedSlots] = WeakValueDictionary()
        self._renew_at_s = 0.0
        self._background: set[asyncio.Task[None]] = set()

    async def draw(self, wanted: Draw) -> Drawn:
        """Take units from a shared bucket. Raises Overloaded if the database is unavailable."""
        now_us = self._clock.lease_ms() * 1000
        try:
            drawn: Drawn = await self._writer.run(partial(shared_limits.draw, wanted=wanted, now_us=now_us))
        except StoreError as error:
            raise Overloaded("the database is temporarily unavailable; try again", retry_after_s=2) from error
        return drawn

    async def refill(self, name: str) -> None:
        """Fill a bucket."""
        await self._writer.run(partial(shared_limits.refill, name=name))

    def bucket(self, name: str, limit: int) -> LeasedBucket:
        """Return this process's part of a bucket of so many units a minute."""
        return LeasedBucket(self, self._clock, name, limit)

    def slots(self, name: str, limit: int) -> LeasedSlots:
        """Return this process's part of a limit of requests in progress. There is one for each name."""
        slots = self._by_name.get(name)
        if slots is None:
            slots = self._by_name[name] = LeasedSlots(self, self._clock, name, limit)
        slots.limit = limit
        return slots

    async def take_slots(self, slots: LeasedSlots, wanted: int, least: int) -> int:
        """Hold the wanted slots, or what others leave of them; 0 if that is less than `least`. Raises Overloaded."""
        self._slots.add(slots)
        change = partial(
            shared_limits.take_slots,
            wanted=Slots(slots.name, self._process, wanted),
            least=least,
            limit=slots.limit,
            now_ms=self._clock.lease_ms(),
            lease_ms=SLOTS_LEASE_MS,
        )
        try:
            held: int = await self._writer.run(change)
        except StoreError as error:
            raise Overloaded("the database is temporarily unavailable; try again", retry_after_s=2) from error
        return held

    def hold(self, bucket: LeasedBucket) -> None:
        """Remember that a bucket holds units, which may have to be given back."""
        self._holding.add(bucket)

    def start(self, bucket: LeasedBucket, units: int) -> None:
        """Draw in the background."""
        task = asyncio.create_task(bucket.draw_more(units, 1))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def run(self) -> None:
        """Give back unused units until cancelled."""
        for look in range(1 << 62):
            await asyncio.sleep(GIVE_BACK_EVERY_S)
            try:
                for bucket in list(self._holding):
                    if units := bucket.give_back(self._clock.steady_s()):
                        await self.draw(Draw(bucket.name, -units, 0, bucket.limit, int(MINUTE_S * 1e6)))
                    if not bucket.held:
                        self._holding.discard(bucket)
                await self._keep_slots()
                if look % DELETE_AFTER == DELETE_AFTER - 1:
                    now_us = self._clock.lease_ms() * 1000
                    await self._writer.run(partial(shared_limits.delete_full, now_us=now_us))
                    before_ms = self._clock.lease_ms() - SLOTS_LEASE_MS
                    await self._writer.run(partial(shared_limits.delete_old_slots, before_ms=before_ms))
            except (StoreError, Overloaded) as error:
                log.info("giving back unused rate limits failed: %s", error)

    async def _keep_slots(self) -> None:
        """Give back unused slots, and renew the leases of the others, all in one statement."""
        now_s = self._clock.steady_s()
        changed = [slots for slots in list(self._slots) if slots.give_back(now_s)]
        if now_s >= self._renew_at_s:
            self._renew_at_s = now_s + RENEW_SLOTS_EVERY_S
            changed = [slots for slots in self._slots if not slots.is_drawing]
        if not changed:
            return
        rows = [Slots(slots.name, self._process, slots.held) for slots in changed]
        self._slots -= {slots for slots in changed if not slots.held}
        until_ms = self._clock.lease_ms() + SLOTS_LEASE_MS
        await self._writer.run(partial(shared_limits.keep_slots, slots=rows, until_ms=until_ms))


class LeasedSlots:
    """What this process holds of the requests in progress that all processes may have together."""

    __slots__ = (
        "__weakref__",
        "_ask_again_s",
        "_clock",
        "_drawing",
        "_drawn_s",
        "_shared",
        "_step",
        "_used_s",
        "held",
        "limit",
        "name",
        "used",
    )

    def __init__(self, shared: SharedBuckets, clock: Clock, name: str, limit: int) -> None:
        self.name, self.limit = name, limit
        #: Slots that this process holds, and those that requests occupy.
        self.held = self.used = 0
        self._shared, self._clock = shared, clock
        self._step = 1
        self._drawn_s = self._used_s = float("-inf")
        self._ask_again_s = 0.0
        self._drawing = asyncio.Lock()

    @property
    def is_drawing(self) -> bool:
        return self._drawing.locked()

    async def prepare(self) -> bool:
        """Hold one more slot than is occupied, if there is one. Return whether that took time. Raises Overloaded."""
        if self.used < self.held or self._clock.steady_s() < self._ask_again_s:
            return False
        async with self._drawing:
            now_s = self._clock.steady_s()
            if self.used < self.held or now_s < self._ask_again_s:
                return True
            self._step = min(self._step * 2, max(1, self.limit // SHARE)) if now_s - self._drawn_s < FAST_S else 1
            self._drawn_s = self._used_s = now_s
            held = await self._shared.take_slots(self, self.used + self._step, self.used + 1)
            if held:
                self.held = held
            else:
                self._ask_again_s = self._clock.steady_s() + ASK_AGAIN_S
        return True

    def occupy(self) -> None:
        """Begin a request."""
        self.used += 1
        self._used_s = self._clock.steady_s()

    def free(self) -> None:
        """End a request."""
        self.used -= 1

    def give_back(self, now_s: float) -> bool:
        """Hold no more slots than were needed lately. Return whether that changes anything."""
        if self.is_drawing or self.held == self.used or now_s - self._used_s < GIVE_BACK_EVERY_S:
            return False
        self.held = self.used
        return True


class LeasedBucket:
    """What this process holds of a shared bucket. Has the methods of `rate_limits.TokenBucket`."""

    __slots__ = (
        "_ask_again_s",
        "_blocked_least",
        "_blocked_until_s",
        "_clock",
        "_drawing",
        "_drawn_s",
        "_left",
        "_shared",
        "_step",
        "_used_s",
        "held",
        "limit",
        "name",
        "unit_s",
    )

    def __init__(self, shared: SharedBuckets, clock: Clock, name: str, limit: int) -> None:
        self.name, self.limit, self.unit_s = name, limit, MINUTE_S / limit
        #: Units that this process may spend. Negative if work used more than it had reserved.
        self.held = 0
        self._shared, self._clock = shared, clock
        self._step = 1
        #: Units that were left for everyone after the last draw, and when that was.
        self._left, self._drawn_s = limit, float("-inf")
        self._used_s = 0.0
        #: Until then there are fewer units than were wanted, unless some are given back: ask again before.
        self._blocked_until_s = self._ask_again_s = 0.0
        self._blocked_least = 0
        self._drawing: asyncio.Lock = asyncio.Lock()

    async def prepare(self, units: int, least: int) -> None:
        """Draw units, if fewer than `least` are held. Raises Overloaded.

        If there are too few, `wait_s` returns the time until there are enough.
        """
        while self.held < least and self._may_ask(least):
            async with self._drawing:
                if self.held < least and self._may_ask(least):
                    await self._draw(units, least)
        if least == 1 and self.held < self._step // LOW and not self._drawing.locked():
            self._shared.start(self, units)

    async def draw_more(self, units: int, least: int) -> None:
        """Draw before the units that are held are spent."""
        async with self._drawing:
            if self.held >= self._step // LOW or not self._may_ask(least):
                return
            try:
                await self._draw(units, least)
            except Overloaded as error:
                log.info("drawing from a shared rate limit failed: %s", error)

    def _may_ask(self, least: int) -> bool:
        return self._clock.steady_s() >= self._ask_again_s or least - self.held < self._blocked_least

    async def _draw(self, units: int, least: int) -> None:
        now_s = self._clock.steady_s()
        self._step = min(self._step * 2, max(1, self.limit // SHARE)) if now_s - self._drawn_s < FAST_S else 1
        missing = min(least - self.held, self.limit)
        most = max(units - self.held, missing, self._step if least == 1 else 0)
        drawn = await self._shared.draw(Draw(self.name, most, missing, self.limit, int(MINUTE_S * 1e6)))
        now_s = self._clock.steady_s()
        self.held += drawn.units
        self._left, self._drawn_s, self._used_s = drawn.left, now_s, now_s
        if drawn.units:
            self._shared.hold(self)
        if drawn.wait_us:
            wait_s = drawn.wait_us / 1e6
            self._blocked_until_s, self._ask_again_s = now_s + wait_s, now_s + min(wait_s, ASK_AGAIN_S)
            self._blocked_least = missing

    def give_back(self, now_s: float) -> int:
        """Return how many units this process does not need, and hold them no more. Negative: a debt, to be shared."""
        if self.held < 0:
            debt, self.held = self.held, 0
            return debt
        keep = 0 if now_s - self._used_s >= IDLE_S else max(1, self.limit // SHARE)
        units = max(0, self.held - keep)
        self.held -= units
        return units

    def wait_s(self, units: int, now_s: float) -> float:
        """Return the seconds until so many units are available; 0 if this process holds them."""
        return 0.0 if self.held >= units else max(self._blocked_until_s - now_s, 0.001)

    def consume(self, units: int, now_s: float) -> None:
        """Spend units. A negative number returns them."""
        self.held -= units
        self._used_s = now_s
        if units < 0 or self.held < 0:
            self._shared.hold(self)

    def remaining(self, now_s: float) -> int:
        """Return the units that are available to all processes together, as far as this one knows."""
        refilled = int(max(0.0, now_s - self._drawn_s) / self.unit_s) if self._left < self.limit else 0
        return max(0, min(self.limit, self.held + self._left + refilled))

    def full_in_s(self, now_s: float) -> float:
        """Return the seconds until the bucket is full again."""
        return (self.limit - self.remaining(now_s)) * self.unit_s

    def is_idle(self, now_s: float) -> bool:
        """Return True if the bucket can be dropped without losing state."""
        return not self.held and now_s >= self._blocked_until_s and not self._drawing.locked()


def bucket_name(kind: str, key: str) -> str:
    """Return the name of a bucket with a personal key, such as an address, which the name does not show."""
    return f"{kind}/{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
