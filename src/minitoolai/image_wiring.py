"""Everything about image jobs, put together: who takes them, judges them, draws them, keeps them, tells of them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from minitoolai import __version__
from minitoolai.billing.charging import Charging
from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.errors import SettingsError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.signing import SecretKeys, UrlSigner
from minitoolai.engines.factory import make_image_engines
from minitoolai.engines.protocols import ImageEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.attempt import JobAttempt
from minitoolai.images.moderation import DefaultPolicy, ModerationPolicy, Policies, find_policies
from minitoolai.images.progress import JobEvents
from minitoolai.images.results import ImageDelivery, ImageSweeper, Links, PublicAddress
from minitoolai.images.service import ImageService
from minitoolai.images.webhooks import ANSWER_WITHIN_S, Post, WebhookDeliverer, WebhookSecrets
from minitoolai.images.worker import ImageWorker
from minitoolai.observability.tracing import Tracing
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import BucketObjects, LocalObjects, ObjectStore
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
    in_flight: InFlight
    http: HttpClient
    #: What every signature of this server is made from.
    secret: SecretKeys
    tracing: Tracing | None = None


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


def make_objects(settings: Settings) -> ObjectStore:
    """Where pictures lie. SettingsError."""
    if not settings.object_store:
        return LocalObjects(settings.data_dir / "objects")
    return BucketObjects(
        settings.object_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
    )


def make_policy(settings: Settings, http: HttpClient) -> Policies:
    """Who judges prompts. SettingsError."""

    def moderation() -> ModerationPolicy:
        if not settings.moderation_url:
            raise SettingsError("MINITOOLAI_PROMPT_POLICY: moderation needs MINITOOLAI_MODERATION_URL")
        return ModerationPolicy(
            http,
            base_url=settings.moderation_url,
            key=settings.moderation_key,
            model=settings.moderation_model,
        )

    return find_policies(settings.prompt_policy, {"default": DefaultPolicy, "moderation": moderation})


def _post(settings: Settings) -> Post:
    client = GuardedClient(insecure=settings.webhook_insecure, user_agent=f"minitoolai/{__version__} (webhooks)")

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        return await client.post(url, body, headers=headers, field="webhook_url", timeout_s=ANSWER_WITHIN_S)

    return post


def make_images(base: Base, *, is_alone: bool) -> Images:
    """Not yet started. `is_alone`: no other process draws from this database. SettingsError."""
    board = JobEvents()
    engines = make_image_engines(base.catalog, base.settings, base.http)
    settings, database, writer, clock = base.settings, base.database, base.writer, base.clock
    objects = make_objects(settings)
    signer = UrlSigner(base.secret.derived(b"signatures"))
    service = ImageService(
        base.catalog,
        engines,
        base.charging,
        base.clock,
        base.in_flight,
        base.database,
        base.writer,
        make_policy(settings, base.http),
        signer,
        board,
        queue_limit=base.settings.image_queue,
        parent=base.tracing.parent if base.tracing else None,
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
        meters=base.charging.meters,
        late=frozenset(name for name, entry in base.catalog.engines.items() if entry.kind == "sketch"),
        new_run=base.tracing.image_run if base.tracing else JobAttempt,
    )
    address = PublicAddress(settings.public_url, settings.host, settings.port)
    links = Links(signer, clock, address, lifetime_s=settings.image_link_ttl_s)
    secrets = WebhookSecrets(base.secret)
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
            database, writer, clock, find=service.find, links=links, secrets=secrets, post=_post(settings)
        ),
        webhook_secrets=secrets,
    )
