"""Everything about image jobs, put together: the service that takes them, the worker that draws them, their store."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import Clock, random_text
from minitoolai.engine_wiring import make_image_engines
from minitoolai.engines.base_images import ImageEngine
from minitoolai.services.charging import Charging
from minitoolai.services.image_board import Board
from minitoolai.services.image_worker import ImageWorker
from minitoolai.services.images import ImageService
from minitoolai.services.policy import DefaultPolicy
from minitoolai.services.signing import Signer
from minitoolai.services.underway import Underway
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.objects import LocalObjects, ObjectStore
from minitoolai.storage.writer import Writer


@dataclass(frozen=True)
class Base:
    """What image jobs share with everything else."""

    settings: Settings
    catalog: Catalog
    clock: Clock
    database: Database
    writer: Writer
    charging: Charging
    underway: Underway


@dataclass(frozen=True)
class Images:
    """Everything about image jobs in one process."""

    engines: dict[str, ImageEngine]
    objects: ObjectStore
    signer: Signer
    service: ImageService
    worker: ImageWorker


def make_images(base: Base, *, signer: Signer, is_alone: bool) -> Images:
    """Not yet started. `is_alone`: no other process draws from this database. SettingsError."""
    board = Board()
    engines = make_image_engines(base.catalog, base.settings)
    objects = LocalObjects(base.settings.data_dir / "objects")
    service = ImageService(
        base.catalog,
        engines,
        base.charging,
        base.clock,
        base.underway,
        base.database,
        base.writer,
        DefaultPolicy(),
        signer,
        board,
        queue_limit=base.settings.image_queue,
    )
    worker = ImageWorker(
        base.catalog,
        engines,
        base.database,
        base.writer,
        base.clock,
        objects,
        board,
        name=f"{socket.gethostname()}:{os.getpid()}:{random_text(6)}",
        is_alone=is_alone,
    )
    return Images(engines, objects, signer, service, worker)
