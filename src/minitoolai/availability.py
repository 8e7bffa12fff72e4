"""Report which engine serves each model now, and what an account may read about itself.

Reads only, so it never waits for the writer.
"""

from __future__ import annotations

import msgspec

from minitoolai.billing.archive_reader import ArchiveReader
from minitoolai.billing.usage import UsageCache
from minitoolai.chat.service import ChatService, accepts_images
from minitoolai.core.catalog import Catalog, ImageModel, Model, SpeechModel, VoiceEntry
from minitoolai.core.clock import parse_generation_name
from minitoolai.core.errors import NotFound
from minitoolai.core.models import Balance, Caller, Generation, UsageRow
from minitoolai.images.service import ImageService
from minitoolai.speech.service import SpeechService
from minitoolai.storage import accounts, reports
from minitoolai.storage.database import Database
from minitoolai.storage.reports import GroupBy


class Offer(msgspec.Struct, frozen=True):
    """One model, with the engine that serves it now or the reason why there is none."""

    model: Model
    engine: str | None
    why_not: str | None
    #: The model is a chat model that accepts images at the moment.
    sees: bool = False


class Reports:
    """Reports for the JSON API, the portal and the command line."""

    def __init__(
        self,
        database: Database,
        chats: ChatService,
        speech: SpeechService,
        images: ImageService,
        archive: ArchiveReader,
    ) -> None:
        #: Shared by the API and the portal.
        self.archive = archive
        self.usage_cache = UsageCache(database, chats.clock, archive)
        self._database = database
        self._chats = chats
        self._speech = speech
        self._images = images

    @property
    def catalog(self) -> Catalog:
        """Return the catalog."""
        return self._chats.catalog

    def now_ms(self) -> int:
        """Return the current time."""
        return self._chats.clock.now_ms()

    def offers(self) -> list[Offer]:
        """Return every model with the engine that serves it now."""
        return [self.offer(model) for model in self.models().values()]

    def models(self) -> dict[str, Model]:
        """Return every model by name."""
        return self.catalog.models()

    def offer(self, model: Model) -> Offer:
        """Return one model with the engine that serves it now."""
        if isinstance(model, ImageModel):
            image = self._images.engine_for(model)
            return Offer(model, image.name, None) if image else Offer(model, None, self._images.why_no_engine(model))
        if isinstance(model, SpeechModel):
            voice = self._speech.engine_for(model)
            return Offer(model, voice.name, None) if voice else Offer(model, None, self._speech.no_voice_reason(model))
        engine = self._chats.engine_for(model)
        if engine is not None:
            return Offer(model, engine.name, None, accepts_images(model, engine))
        reasons = (f"{name}: {self._chats.engines[name].why_not_ready()}" for name in model.engines)
        return Offer(model, None, "; ".join(reasons))

    def voices(self) -> list[VoiceEntry]:
        """Return every voice that is ready."""
        return [voice for model in self.catalog.speech.values() for voice in self._speech.ready_voices(model)]

    async def balance(self, caller: Caller) -> Balance:
        """Return the posted and held amounts of the caller's account, as committed."""
        return await self._database.read_async(accounts.balance_of, caller.account_id)

    async def usage(self, caller: Caller, from_ms: int, until_ms: int, group_by: GroupBy) -> list[UsageRow]:
        """Return the usage report of the caller's account."""
        return await self.usage_cache.report(caller.account_id, from_ms, until_ms, group_by)

    async def generation(self, caller: Caller, name: str) -> Generation:
        """Return one generation of the caller's account. Raises NotFound, also for generations of other accounts."""
        generation_id = parse_generation_name(name)
        generation = None
        if generation_id is not None:
            generation = await self._database.read_async(reports.find_generation, generation_id, caller.account_id)
            if generation is None:
                generation = await self.archive.find_generation(generation_id, caller.account_id)
        if generation is None:
            raise NotFound(f"your account has no generation {name[:40]!r}", param="id")
        return generation
