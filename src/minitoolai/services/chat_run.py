"""One chat answer under way: read from the engine, paid for, ended. Knows no HTTP.

The charge is queued by `finish`, which awaits nothing, so no way out of an answer is free of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from minitoolai.core.books import Verdict
from minitoolai.core.clock import Clock, created_ms, generation_name
from minitoolai.core.errors import ClientLeft, EngineBroken, EngineError, EngineTimeout, NoRoom, ServiceError
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.records import Outcome
from minitoolai.engines.base import ChatAnswer, ChatEngine
from minitoolai.services import pricing
from minitoolai.services.charging import Charging, Reservation, durable, state_after
from minitoolai.services.completions import Whole, whole_answer
from minitoolai.services.events import EventStream
from minitoolai.services.routes import Route, written
from minitoolai.services.underway import Checkpoints, has_died

log = logging.getLogger(__name__)

HEARTBEAT_AFTER_S = 15.0


class Home(Protocol):
    """What a run needs of the service that began it."""

    clock: Clock
    charging: Charging

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        """Seconds to the first token, and in all."""

    def purchase(self, model: str, engine: str, usage: Usage) -> int | None:
        """What the engine charges us, in nano-dollars, where that is known."""

    def forget(self, run: ChatRun) -> bool:
        """The run has ended; True where it was the only one."""

    def reads_on(self, run: ChatRun, answer: ChatAnswer) -> bool:
        """Whether the rest of an abandoned answer is now read in the background."""


class ChatRun:
    """One answer under way. Made by ChatService.begin; whoever began it calls `finish`, on every path."""

    def __init__(
        self,
        service: Home,
        request: ChatRequest,
        route: Route,
        reservation: Reservation,
        prompt_tokens: int,
    ) -> None:
        """`prompt_tokens`: the exact count where there is one, else our own."""
        self._service = service
        self.request = request
        self.route = route
        self.engine = route.engine
        self.reservation = reservation
        self.name = generation_name(reservation.hold_id)
        self._created_s = created_ms(reservation.hold_id) // 1000
        self.events = self._new_events()
        self.started_s = self._asked_s = self._silent_since_s = service.clock.steady_s()
        self._checkpoints = Checkpoints(self.started_s)
        self._first_token_s: float | None = None
        self._spoke = False
        self._prompt_tokens = prompt_tokens
        self._answer: ChatAnswer | None = None
        self._charge: asyncio.Future[Verdict] | None = None
        self.is_finished = False
        #: The answer, where it came in one piece.
        self._whole: Whole | None = None
        #: Set while somebody may break the answer off by cancelling this task.
        self.task: asyncio.Task[object] | None = None
        self.stop_reason: ServiceError | None = None
        #: Set while the task is cancelled only for another engine to be asked.
        self._lapsed: ServiceError | None = None
        #: Called when the engine has said nothing for HEARTBEAT_AFTER_S.
        self.on_silence: Callable[[], None] | None = None
        #: Called once, when the answer turns out to take longer than a moment.
        self.on_slow: Callable[[], None] | None = None

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def _new_events(self) -> EventStream:
        return EventStream(
            forwards=self.engine.complete_chunks,
            include_usage=self.request.include_usage,
            name=f"chatcmpl-{self.name[4:]}",
            created_s=self._created_s,
        )

    async def open(self) -> None:
        """Ask the engine, and the next should that fail; returns as an answer begins. EngineError where none does."""
        while self._answer is None:
            self.route.ask()
            if self.route.engine is not self.engine:
                self._turn_to(self.route.engine)
            try:
                self._answer = await self.engine.open(self.request, self.reservation.units)
            except (ServiceError, asyncio.CancelledError) as error:
                await self._ask_another(error)

    async def _ask_another(self, error: ServiceError | asyncio.CancelledError) -> None:
        """After a failure of which the caller has seen nothing; raises it where nobody else is left to ask."""
        if isinstance(error, asyncio.CancelledError):
            lapsed, self._lapsed = self._lapsed, None
            if lapsed is None:
                raise error
            if self.task is not None:
                self.task.uncancel()
            if self.stop_reason is not None:
                raise error
            error = lapsed
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()
        # Nobody is asked while we wait our turn: that time is no engine's silence.
        self._asked_s = math.inf
        await self.route.next(error, had_begun=answer is not None)
        self._turn_to(self.route.engine)

    def _turn_to(self, engine: ChatEngine) -> None:
        self.engine = engine
        self.events = self._new_events()
        self._asked_s = self._service.clock.steady_s()

    async def next_block(self) -> bytes | None:
        """Whole events for the caller, or None at the end. EngineError if the engine breaks off."""
        assert self._answer is not None
        while not self._has_ended():
            block = self._digest(await self._answer.next_bytes())
            if block:
                return block
        return None

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand every block to `write` as it comes, until the end. EngineError if the engine breaks off.

        Where the engine can call back, no task wakes for a block. `write` returns what to wait for, should the
        caller read too slowly, else None. An engine that fails before its first chunk is followed by the next.
        """
        while True:
            try:
                return await self._flow(write)
            except (ServiceError, asyncio.CancelledError) as error:
                if self.events.served_model is not None:
                    raise
                await self._ask_another(error)
            await self.open()

    async def _flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        assert self._answer is not None
        while True:
            if self._answer.listen(None):
                slow = await self._listen(self._answer, write)
            else:
                block = await self.next_block()
                slow = write(block) if block else None
            if slow is not None:
                await slow
            elif self._has_ended():
                return

    async def _listen(
        self, answer: ChatAnswer, write: Callable[[bytes], Awaitable[None] | None]
    ) -> Awaitable[None] | None:
        """Write what comes until the end, or until `write` asks to wait: then what it asks to wait for."""
        halt: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()
        repeats = self.events.repeats

        def came() -> None:
            if halt.done():
                return
            try:
                slow = None
                while slow is None and not self._has_ended():
                    data = answer.take()
                    if data is None:
                        return
                    block = self._digest(data)
                    slow = write(block) if block else None
                # Taking the last bytes may close the connection, which calls us once more from within.
                if not halt.done():
                    answer.listen(None)
                    halt.set_result(slow)
            except Exception as error:  # noqa: BLE001 - raised again in the task that waits
                if not halt.done():
                    halt.set_exception(error)

        def flows(data: bytes) -> None:
            try:
                block = repeats(data)
                is_new = block is None
                if block is None:
                    block = self._digest(data)
                else:
                    self._spoke = True
                # Cancelled a moment ago: what still comes counts, and nobody is left to write it to.
                if halt.done():
                    return
                slow = write(block) if block else None
                # What repeats ends nothing.
                if slow is not None or (is_new and self._has_ended()):
                    answer.listen(None)
                    halt.set_result(slow)
            except Exception as error:  # noqa: BLE001 - raised again in the task that waits
                if not halt.done():
                    answer.listen(None)
                    halt.set_exception(error)

        answer.listen(came, flows)
        try:
            came()
            return await halt
        finally:
            answer.listen(None)

    def _digest(self, data: bytes) -> bytes:
        """Bytes of the engine's into whole events for the caller; empty bytes are the engine's end."""
        events = self.events
        if not data:
            if events.usage is None:
                raise EngineBroken(f"{self.engine.name} broke off its answer; what was written is charged")
            events.done = True
            return b""
        block = events.feed(data)
        self._spoke = True
        # A role, or an empty word, is no token yet.
        if self._first_token_s is None and events.pieces:
            self._first_token_s = self._service.clock.steady_s()
        return block

    def _has_ended(self) -> bool:
        if self.events.error is not None:
            raise EngineError(self.events.error)
        return self.events.done

    async def read_whole(self) -> bytes:
        """The answer that is not streamed, with every documented field."""
        while True:
            try:
                return await self._read_whole()
            except (ServiceError, asyncio.CancelledError) as error:
                await self._ask_another(error)
            await self.open()

    async def _read_whole(self) -> bytes:
        assert self._answer is not None
        whole = whole_answer(
            await self._answer.read(),
            forwards=self.engine.complete_chunks,
            name=self.name,
            created_s=self._created_s,
            prompt=self._prompt_tokens,
            most=self._most(),
        )
        self._whole, self.events.served_model = whole, whole.model
        self._first_token_s = self._service.clock.steady_s()
        return whole.body

    def ending(self) -> bytes:
        """The last events, for when the charge is durable."""
        return self.events.ending(self.usage_so_far())

    # ── paying ────────────────────────────────────────────────────────────────────────────────────────────

    def usage_so_far(self) -> Usage:
        """What the engine said, or our own count; nothing at all before the first token."""
        return self._counted()[0]

    def _counted(self) -> tuple[Usage, bool]:
        """The same, and whether any of it is our own count."""
        if self._whole is not None:
            return self._whole.usage, self._whole.is_estimated
        return self.events.counted(self._prompt_tokens, self._most(), is_exact=self.engine.token_events)

    def _most(self) -> int:
        """The output tokens that the hold pays for."""
        return self.reservation.units * self.request.choices

    def cost_so_far(self) -> int:
        """What would be charged if the answer ended now, in nano-dollars."""
        return self._cost_of(self.usage_so_far())

    def _cost_of(self, usage: Usage) -> int:
        return pricing.chat_cost(self.reservation.price_input, self.reservation.price_output, usage)

    async def charge(self, *, within_s: float) -> None:
        """Settle, and return once that is durable. TimeoutError if the database is too sick for that."""
        self.finish()
        if self._charge is not None:
            await durable(self._charge, within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for what was read and written. The first call counts; awaits nothing."""
        if self.is_finished:
            return
        self.is_finished = True
        is_last = self._service.forget(self)
        self.route.end(error)
        usage, is_estimated = self._counted()
        cost = self._cost_of(usage)
        if cost > self.reservation.amount:
            log.error("%s cost %d over its hold of %d: the house pays", self.name, cost, self.reservation.amount)
        self._charge = self._service.charging.settle(
            self.reservation, cost, self._outcome(usage, is_estimated, error), is_last=is_last
        )

    def _outcome(self, usage: Usage, is_estimated: bool, error: ServiceError | None) -> Outcome:
        first_s = self._first_token_s
        return Outcome(
            state=state_after(error),
            input_units=usage.prompt_tokens,
            output_units=usage.completion_tokens,
            cached_units=usage.cached_tokens,
            estimated=is_estimated,
            served_model=self.events.served_model,
            error_code=error.code if error else None,
            first_token_ms=None if first_s is None else round((first_s - self.started_s) * 1000),
            engine=self.route.served_by_another,
            attempts=written(self.route.attempts),
            purchase=self._service.purchase(self.request.model, self.engine.name, usage),
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, error: ServiceError | None = None) -> None:
        """Let go of the engine and finish. An engine that goes on billing is read to its end all the same."""
        answer, self._answer = self._answer, None
        if answer is not None and isinstance(error, ClientLeft) and self._service.reads_on(self, answer):
            return
        self.finish(error)
        if answer is not None:
            await answer.close()

    async def read_on(self, answer: ChatAnswer) -> None:
        """The caller left, the engine bills all the same: read to the usage it reports."""
        # From here on the run can be stopped again: the reason until now was that the caller left.
        self._answer, self.task, self.stop_reason = answer, asyncio.current_task(), None
        error: ServiceError = ClientLeft("the caller hung up")
        try:
            while await self.next_block() is not None:
                pass
        except ServiceError as failure:
            error = failure
        finally:
            self.task = None
            self.finish(error)
            await answer.close()

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside: a timeout, a caller who left, a server that stops."""
        if self.stop_reason is None and self.task is not None:
            self.stop_reason = reason
            self.task.cancel()

    def lose(self, reason: ServiceError) -> None:
        """Stop because the hold is settled already. Once the charge is queued, its own verdict decides instead."""
        if not self.is_finished:
            self.stop(reason)

    def tick(self, now_s: float) -> None:
        """Called twice a second: renew the lease, enforce the timeouts, break the silence."""
        if has_died(self):
            return
        if self.on_slow is not None:
            self.on_slow()
            self.on_slow = None
        if self._spoke:
            self._spoke = False
            self._silent_since_s = now_s
        elif now_s - self._silent_since_s >= HEARTBEAT_AFTER_S and self.on_silence is not None:
            self._silent_since_s = now_s
            self.on_silence()
        if self._checkpoints.is_due(now_s):
            self._service.charging.keep_alive(self.reservation, self.cost_so_far(), self.lose)
        first_s, total_s = self._service.timeouts(self.engine)
        if now_s - self.started_s > total_s:
            self.stop(
                EngineTimeout(f"the answer took more than {total_s:g} s and was cut; what was written is charged")
            )
        elif self._first_token_s is None and now_s - self._asked_s > first_s:
            self._give_up_waiting(first_s)

    def _give_up_waiting(self, waited_s: float) -> None:
        """The engine has had its time: another is asked, or else the answer ends here."""
        name = self.engine.name
        if self.request.waits:
            error: ServiceError = NoRoom(f"{name} had no place free for {waited_s:g} s; try again", retry_after_s=2)
        else:
            error = EngineTimeout(f"{name} sent no token for {waited_s:g} s; nothing was charged")
        if self.events.served_model is None and self.route.has_more() and self.task is not None:
            if self._lapsed is None and self.stop_reason is None:
                self._lapsed = error
                self.task.cancel()
        else:
            self.stop(error)
