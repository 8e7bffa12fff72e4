"""Say when not the gateway but the mock upstream or the load generator was the limit.

Both are Python programs on the cores that are not the gateway's. Once one of them fills a core, or both together fill
theirs, a faster gateway would show no higher rate: the figure is a lower bound.
"""

import os
from dataclasses import dataclass

#: A process that uses this part of a core is at its limit, because the CPU times of a short run are rough.
SATURATED = 0.9


@dataclass(frozen=True)
class Busy:
    """The part of a core that each program used during a measurement; None for a gateway that is not measured."""

    gateway: float | None
    mock: float
    load: float
    #: Cores that mock and load share.
    cores: int


def limit_of(busy: Busy) -> str | None:
    """Return what limited the measurement, other than the gateway. None if it was the gateway, or its own waiting."""
    if busy.gateway is not None and busy.gateway >= SATURATED:
        return None
    if busy.mock >= SATURATED:
        return "mock"
    if busy.load >= SATURATED:
        return "load"
    return "mock and load" if busy.mock + busy.load >= SATURATED * busy.cores else None


def at_least(text: str, limit: str | None) -> str:
    """Mark a figure that the bench itself limited."""
    return f"≥ {text}" if limit else text


def cores_of(cores: set[int] | None) -> int:
    """Return how many cores mock and load have."""
    return len(cores) if cores else max(1, (os.cpu_count() or 2) - 1)
