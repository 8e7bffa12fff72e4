"""Charge for speech and transcriptions in progress: what a spoken text and a transcribed recording have in common.

As for chats, `finish` queues the charge without awaiting anything, so that every way in which a run can end is charged.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

import msgspec

from minitoolai.billing.charging import Charging, Reservation, state_after, wait_until_durable
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import ServiceError
from minitoolai.core.in_flight import (
    Cancellation,
    CheckpointSchedule,
    InFlight,
    RunFailure,
    StreamOutput,
    break_silence,
    has_died,
)
from minitoolai.core.inference import Usage
from minitoolai.core.models import GenerationState, Outcome
from minitoolai.ledger.types import Result


class AudioEngine(Protocol):
    """What a run says about its engine."""

    name: str

    def served_model(self, model: str) -> str:
        """Return the engine's own name of a model."""


class AudioResponse(Protocol):
    """The engine's response, which holds resources until it is closed."""

    async def close(self) -> None:
        """Release them."""


class AudioService(Protocol):
    """The service that runs belong to."""

    catalog: Catalog
    charging: Charging
    clock: Clock
    in_flight: InFlight


def upstream_cost(catalog: Catalog, model: str, engine: str, units: int) -> int | None:
    """Return what the engine charges the operator, in nano-dollars. None if the catalog has no cost for it."""
    price = catalog.upstream_costs.get((engine, model))
    return None if price is None else price.cost(Usage(units, 0))


_Response = TypeVar("_Response", bound=AudioResponse)


class AudioRun(Generic[_Response]):
    """A paid run that is charged by one unit: characters or seconds. Its caller must call `close`, however it ends."""

    def __init__(self, service: AudioService, model: str, engine: AudioEngine, reservation: Reservation) -> None:
        self._charges = service
        self._model = model
        self._engine = engine
        self.reservation = reservation
        self.hold_id = reservation.hold_id
        self.name = generation_name(reservation.hold_id)
        self.cancellation = Cancellation()
        self.is_finished = False
        #: Output of an event stream; None for a response in one piece.
        self.output: StreamOutput | None = None
        self._response: _Response | None = None
        self._charge: asyncio.Future[Result] | None = None
        self._started_s = self._progress_at_s = self._silent_since_s = service.clock.steady_s()
        self._checkpoints = CheckpointSchedule(self._started_s)
        #: When the first audio or text was sent.
        self._first_output_s: float | None = None

    @property
    def units(self) -> int:
        """Return the characters or seconds to charge for so far."""
        raise NotImplementedError

    def outcome(self, state: GenerationState) -> Outcome:
        """Return how the run ended, with what only this kind of run knows, such as the delivered bytes."""
        raise NotImplementedError

    def check_progress(self, silent_s: float) -> None:
        """Stop the run if its engine or its caller has been silent for too long."""
        raise NotImplementedError

    def _note_progress(self, *, has_output: bool) -> None:
        self._progress_at_s = self._charges.clock.steady_s()
        if has_output and self._first_output_s is None:
            self._first_output_s = self._progress_at_s

    # ── charging ──────────────────────────────────────────────────────────────────────────────────────────

    def cost_so_far(self) -> int:
        """Return the charge if the run ended now, in nano-dollars."""
        return self.units * self.reservation.price_input

    async def count_output(self) -> None:
        """Do nothing: characters and seconds are counted as they are processed."""

    async def charge(self, *, within_s: float) -> None:
        """Settle the hold and wait until that is durable. Raises TimeoutError if the database does not respond."""
        self.finish()
        if self._charge is not None:
            await wait_until_durable(self._charge, within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for the units so far. Awaits nothing. Only the first call has an effect."""
        if self.is_finished:
            return
        self.is_finished = True
        is_last = self._charges.in_flight.discard(self)
        first_s = self._first_output_s
        outcome = msgspec.structs.replace(
            self.outcome(state_after(error)),
            input_units=self.units,
            served_model=self._engine.served_model(self._model),
            error_code=error.code if error else None,
            first_token_ms=None if first_s is None else round((first_s - self._started_s) * 1000),
            upstream_cost=upstream_cost(self._charges.catalog, self._model, self._engine.name, self.units),
        )
        self._charge = self._charges.charging.settle(
            self.reservation, self.cost_so_far(), outcome, error=error, is_last=is_last
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, error: ServiceError | None = None) -> None:
        """Finish the run and close the engine's response."""
        self.finish(error)
        response, self._response = self._response, None
        if response is not None:
            await response.close()

    def describe_failure(self, error: ServiceError) -> RunFailure:
        """Return the model, the engine and the reason of a failure, for the log."""
        return RunFailure(self._model, self._engine.name, error.code)

    def stop(self, reason: ServiceError) -> None:
        """Cancel the run with this error."""
        self.cancellation.cancel(reason)

    def lose(self, reason: ServiceError) -> None:
        """Stop because the hold was settled elsewhere. Has no effect once the charge is queued: its result decides."""
        if not self.is_finished:
            self.cancellation.cancel(reason)

    def tick(self, now_s: float) -> None:
        """Renew the lease, send heartbeats, and enforce the timeouts. Called twice a second."""
        if has_died(self):
            return
        if self._checkpoints.is_due(now_s):
            self._charges.charging.keep_alive(self.reservation, self.cost_so_far(), self.lose)
        if self.output is not None:
            self._silent_since_s = break_silence(self.output, self._silent_since_s, now_s)
        self.check_progress(now_s - self._progress_at_s)
