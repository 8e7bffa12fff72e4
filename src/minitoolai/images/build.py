"""Build the image slice from settings: engines, object store, prompt policy, worker, links and webhooks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from minitoolai.billing.shared import SharedServices
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import random_text
from minitoolai.core.signing import UrlSigner
from minitoolai.engines.factory import make_image_engines, make_upscaler
from minitoolai.engines.protocols import ImageEngine
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.attempt import JobServices
from minitoolai.images.moderation import build_policy
from minitoolai.images.progress import JobEvents
from minitoolai.images.provenance.marks import build_marks
from minitoolai.images.results import ImageDelivery, ImageSweeper, Links, PublicAddress
from minitoolai.images.scheduler import WorkerState
from minitoolai.images.service import ImageService
from minitoolai.images.webhooks import TIMEOUT_S, Post, WebhookDeliverer, WebhookSecrets
from minitoolai.images.worker import ImageWorker
from minitoolai.settings import Settings
from minitoolai.storage.object_store import WatchedObjectStore, build_object_store


@dataclass(frozen=True)
class Images:
    """The image slice of one process."""

    engines: dict[str, ImageEngine]
    service: ImageService
    worker: ImageWorker
    address: PublicAddress
    delivery: ImageDelivery
    sweeper: ImageSweeper
    webhooks: WebhookDeliverer
    webhook_secrets: WebhookSecrets
    objects: WatchedObjectStore


def build(settings: Settings, shared: SharedServices) -> Images:
    """Return the image slice, not yet started. Raises SettingsError."""
    engines = make_image_engines(shared.catalog, settings, shared.http)
    database, writer, clock = shared.database, shared.writer, shared.clock
    objects = WatchedObjectStore(build_object_store(settings))
    signer = UrlSigner(shared.secret_key.derive(b"signatures"))
    services = JobServices(
        database,
        writer,
        clock,
        objects,
        JobEvents(),
        shared.charging.meters,
        shared.spans,
        build_marks(settings, shared.secret_key),
        shared.stand_ins,
        make_upscaler(shared.catalog, settings),
    )
    service = ImageService(
        shared.catalog,
        engines,
        services,
        shared.charging,
        policy=build_policy(settings, shared.http),
        signer=signer,
        in_flight=shared.in_flight,
        queue_limit=settings.image_queue,
    )
    state = WorkerState(
        name=f"{socket.gethostname()}:{os.getpid()}:{random_text(6)}",
        single_process=not database.is_shared,
        start_on_demand=frozenset(name for name, entry in shared.catalog.engines.items() if entry.kind == "sketch"),
    )
    address = PublicAddress(settings.public_url, settings.host, settings.port, shared.catalog)
    links = Links(signer, clock, address, lifetime_s=settings.image_link_ttl_s)
    secrets = WebhookSecrets(shared.secret_key)
    return Images(
        engines=engines,
        service=service,
        worker=ImageWorker(shared.catalog, engines, services, state),
        address=address,
        delivery=ImageDelivery(database, objects, links),
        sweeper=ImageSweeper(database, writer, objects, clock, retention_days=settings.image_retention_days),
        webhooks=WebhookDeliverer(
            database,
            writer,
            clock,
            find_job=service.find,
            links=links,
            secrets=secrets,
            post=_webhook_post(settings, shared.catalog),
        ),
        webhook_secrets=secrets,
        objects=objects,
    )


def _webhook_post(settings: Settings, catalog: Catalog) -> Post:
    client = GuardedClient(
        insecure=settings.webhook_insecure, user_agent=lambda: f"{catalog.shop.user_agent} (webhooks)"
    )

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        return await client.post(url, body, headers=headers, field="webhook_url", timeout_s=TIMEOUT_S)

    return post
