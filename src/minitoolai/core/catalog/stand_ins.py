"""Stand-ins: embedded models that answer for a listed model without a configured engine of its own.

An embedded model is a stand-in for every model but the one of its own name. The setting MINITOOLAI_STAND_INS decides
whether stand-ins answer, and whether they are charged.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Literal

from minitoolai.core.catalog.catalog import Catalog, EngineEntry
from minitoolai.core.telemetry.logs import SummedLog

log = logging.getLogger(__name__)
UNAVAILABLE = "no engine is ready for model %s (%s): %d requests refused in the last minute"
#: What stand-ins do: answer at the price of the model, answer for nothing, or not answer.
Policy = Literal["sell", "free", "refuse"]
#: The name of the embedded image model.
SKETCH_MODEL = "minitoolai-sketch-1"


def own_name(entry: EngineEntry) -> str:
    """Return the name of an embedded model as its answers carry it."""
    return SKETCH_MODEL if entry.kind == "sketch" else entry.model


class StandIns:
    """Tells for the engines and models of a catalog which are stand-ins, and what those do."""

    def __init__(self, catalog: Catalog, policy: Policy = "sell", *, is_demo_only: bool = False) -> None:
        """`is_demo_only`: they are refused because the server was not started with `--demo`."""
        self.catalog = catalog
        self.policy = policy
        self.is_demo_only = is_demo_only
        #: Engine → the name of its model, where a setting replaces that of the catalog.
        self.names: dict[str, str] = {}
        self.unavailable = SummedLog(log, logging.WARNING, UNAVAILABLE)

    def own_name(self, engine: str) -> str:
        """Return the name of an embedded engine's model as its answers carry it."""
        return self.names.get(engine) or own_name(self.catalog.engines[engine])

    def is_stand_in(self, engine: str, model: str) -> bool:
        """Return True if this engine answers for a model that is not its own."""
        entry = self.catalog.engines.get(engine)
        if entry is None or not entry.is_embedded:
            return False
        if engine in self.names:
            return model != self.names[engine]
        return model not in (engine, entry.kind, own_name(entry))

    def refuses(self, engine: str, model: str) -> bool:
        """Return True if this engine must not answer for this model."""
        return self.policy == "refuse" and self.is_stand_in(engine, model)

    def is_free(self, engine: str, model: str) -> bool:
        """Return True if an answer of this engine for this model costs nothing."""
        return self.policy == "free" and self.is_stand_in(engine, model)

    def why_refused(self, engine: str, model: str) -> str | None:
        """Return why this engine must not answer for this model and what to do, for the operator; else None."""
        if not self.refuses(engine, model):
            return None
        why = "stand-ins answer under serve --demo only" if self.is_demo_only else "MINITOOLAI_STAND_INS=refuse"
        own = next((name for name in self._models_of(engine) if not self.is_stand_in(engine, name)), None)
        offer = f"{own} is its own model" if own else f"add a model {self.own_name(engine)} for it to the catalog"
        return f"{why}; {offer}, or set MINITOOLAI_STAND_INS=sell or free"

    def _models_of(self, engine: str) -> list[str]:
        return [name for name, model in self.catalog.models().items() if engine in model.engines]

    def shown_model(self, model: str, engine: str | None, served: str | None) -> str:
        """Return the name of the model that customers see: see `shown_name`. A stand-in's name is its own."""
        entry = self.catalog.engines.get(engine or "")
        if engine is not None and entry is not None and entry.is_embedded:
            return served or self.own_name(engine)
        if entry is not None and entry.kind == "fake":
            return served or model
        return shown_name(model, served)


@lru_cache(1000)
def shown_name(model: str, served: str | None) -> str:
    """Return an upstream's own name of a model if that is the requested one and a date, else the requested one.

    `gpt-4o-mini-2024-07-18` is shown for `gpt-4o-mini`; `gpt-4o-acme` is not, because it tells who the supplier is.
    """
    if served is None or served == model or not served.startswith(model):
        return model
    date = served[len(model) :]
    digits = date.replace("-", "")
    is_date = date[0] == "-" and digits.isascii() and digits.isdigit() and len(digits) in (4, 6, 8)
    return served if is_date else model
