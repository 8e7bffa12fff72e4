"""Define the services that every slice (chat, speech, images) is built from."""

from __future__ import annotations

from dataclasses import dataclass

from minitoolai.billing.charging import Charging
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.clock import SystemClock
from minitoolai.core.in_flight import InFlight
from minitoolai.core.signing import SecretKeys
from minitoolai.core.telemetry.tracing import Spans
from minitoolai.httpclient.client import HttpClient
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer


@dataclass(frozen=True)
class SharedServices:
    """One instance per process, created by bootstrap and passed to each slice's `build`."""

    catalog: Catalog
    clock: SystemClock
    database: Database
    writer: Writer
    charging: Charging
    in_flight: InFlight
    http: HttpClient
    #: Key ring for all signatures of this server.
    secret_key: SecretKeys
    #: What embedded models do for models that are not theirs.
    stand_ins: StandIns
    #: None if tracing is off.
    spans: Spans | None = None
