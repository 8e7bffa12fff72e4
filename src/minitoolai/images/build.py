"""Build the image slice from settings: engines, object store, prompt policy, worker, links and webhooks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from minitoolai import __version__
from minitoolai.billing.shared import SharedServices
from minitoolai.core.clock import random_text
from minitoolai.core.signing import UrlSigner
from minitoolai.core.tracing import request_parent
from minitoolai.engines.factory import make_image_engines
from minitoolai.engines.protocols import ImageEngine
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.moderation import build_policy
from minitoolai.images.progress import JobEvents
from minitoolai.images.results import ImageDelivery, ImageSweeper, Links, PublicAddress
from minitoolai.images.service import ImageService
from minitoolai.images.webhooks import ANSWER_WITHIN_S, Post, WebhookDeliverer, WebhookSecrets
from minitoolai.images.worker import ImageWorker
from minitoolai.settings import Settings
from minitoolai.storage.object_store import ObjectStore, build_object_store


@dataclass(frozen=True)
class Images:
    """Everything about image jobs in one process."""

    engines: dict[str, ImageEngine]
    objects: ObjectStore
    signer: UrlSigner
    service: ImageService
    worker: ImageWorker
    address: PublicAddress
    links: Links
    pictures: ImageDelivery
    sweeper: ImageSweeper
    webhooks: WebhookDeliverer
    webhook_secrets: WebhookSecrets


def build(settings: Settings, shared: SharedServices) -> Images:
    """Return the image slice, not yet started. Raises SettingsError."""
    events = JobEvents()
    engines = make_image_engines(shared.catalog, settings, shared.http)
    database, writer, clock = shared.database, shared.writer, shared.clock
    objects = build_object_store(settings)
    signer = UrlSigner(shared.secret_key.derive(b"signatures"))
    service = ImageService(
        shared.catalog,
        engines,
        shared.charging,
        clock,
        shared.in_flight,
        database,
        writer,
        build_policy(settings, shared.http),
        signer,
        events,
        queue_limit=settings.image_queue,
        parent=None if shared.spans is None else request_parent,
    )
    worker = ImageWorker(
        shared.catalog,
        engines,
        database,
        writer,
        clock,
        objects,
        events,
        name=f"{socket.gethostname()}:{os.getpid()}:{random_text(6)}",
        is_alone=not database.is_shared,
        meters=shared.charging.meters,
        late=frozenset(name for name, entry in shared.catalog.engines.items() if entry.kind == "sketch"),
        spans=shared.spans,
    )
    address = PublicAddress(settings.public_url, settings.host, settings.port)
    links = Links(signer, clock, address, lifetime_s=settings.image_link_ttl_s)
    secrets = WebhookSecrets(shared.secret_key)
    return Images(
        engines=engines,
        objects=objects,
        signer=signer,
        service=service,
        worker=worker,
        address=address,
        links=links,
        pictures=ImageDelivery(database, objects, links),
        sweeper=ImageSweeper(database, writer, objects, clock, retention_days=settings.image_retention_days),
        webhooks=WebhookDeliverer(
            database, writer, clock, find=service.find, links=links, secrets=secrets, post=_webhook_post(settings)
        ),
        webhook_secrets=secrets,
    )


def _webhook_post(settings: Settings) -> Post:
    client = GuardedClient(insecure=settings.webhook_insecure, user_agent=f"minitoolai/{__version__} (webhooks)")

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        return await client.post(url, body, headers=headers, field="webhook_url", timeout_s=ANSWER_WITHIN_S)

    return post
