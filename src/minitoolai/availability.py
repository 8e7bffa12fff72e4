"""Report which engine serves each model now, and what an account may read about itself.

Reads only, so it never waits for the writer.
"""

from __future__ import annotations

import msgspec

from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.billing.usage import UsageCache
from minitoolai.chat.circuit_breaker import BreakerState
from minitoolai.chat.service import ChatService, accepts_images
from minitoolai.core.catalog.catalog import Catalog, ChatModel, ImageModel, Model, SpeechModel, VoiceEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.clock import parse_generation_name
from minitoolai.core.errors import NotFound
from minitoolai.core.models import Balance, Caller, Generation, UsageRow
from minitoolai.engines.concurrency import Load
from minitoolai.images.service import ImageService
from minitoolai.speech.service import SpeechService
from minitoolai.storage.database import Database
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.purses import PlanNow
from minitoolai.storage.tables import accounts, reports
from minitoolai.storage.tables.reports import GroupBy
from minitoolai.transcription.service import TranscriptionService


class Offer(msgspec.Struct, frozen=True):
    """One model, with the engine that serves it now or the reason why there is none."""

    model: Model
    engine: str | None
    why_not: str | None
    #: The model is a chat model that accepts images at the moment.
    sees: bool = False
    #: The name of the stand-in that serves this model now; None if its own engine does.
    stand_in: str | None = None
    #: An answer costs nothing.
    is_free: bool = False
    #: The context length of a chat model as it is here, in tokens.
    context: int | None = None

    @property
    def charged_model(self) -> Model:
        """The model with the prices that are charged now: none, if its stand-in is free."""
        if not self.is_free:
            return self.model
        if isinstance(self.model, ChatModel):
            return msgspec.structs.replace(self.model, prices=Prices.of_nano(0))
        if isinstance(self.model, ImageModel):
            return msgspec.structs.replace(self.model, price=0, prices=())
        return msgspec.structs.replace(self.model, price=0)


class EngineHealth(msgspec.Struct, frozen=True):
    """One engine as this process sees it. `used_by`: the models that name it; `stand_in_for`: those for which it
    answers now in place of their own engine.
    """

    name: str
    kind: str
    used_by: tuple[str, ...]
    stand_in_for: tuple[str, ...]
    #: None: it is ready.
    why_not: str | None
    #: None: it has no circuit breaker, because no upstream is behind it.
    breaker: BreakerState | None
    load: Load | None
    #: Attempts since the start of this process.
    succeeded: int
    failed: int
    #: Code and time of the last failed attempt.
    last_failure: tuple[str, int] | None

    @property
    def is_test(self) -> bool:
        """Return True for the deterministic engine for tests, which is no model at all."""
        return self.kind == "fake"


class Reports:
    """Reports for the JSON API, the portal and the command line."""

    def __init__(
        self,
        database: Database,
        chats: ChatService,
        speech: SpeechService,
        transcription: TranscriptionService,
        images: ImageService,
        archive: ArchiveReader,
        stand_ins: StandIns,
    ) -> None:
        self.stand_ins = stand_ins
        #: Shared by the API and the portal.
        self.archive = archive
        self.usage_cache = UsageCache(database, chats.clock, archive)
        self._database = database
        self._chats = chats
        self._speech = speech
        self._transcription = transcription
        self._images = images

    @property
    def catalog(self) -> Catalog:
        """Return the catalog."""
        return self._chats.catalog

    def now_ms(self) -> int:
        """Return the current time."""
        return self._chats.clock.now_ms()

    def offers(self, price_group: str | None = None) -> list[Offer]:
        """Return every model with the engine that serves it now, at the prices of a group."""
        return [self.offer(model) for model in self.models(price_group).values()]

    def models(self, price_group: str | None = None) -> dict[str, Model]:
        """Return every model by name, at the prices of a group."""
        return self.catalog.of_group(price_group).models()

    def offer(self, model: Model) -> Offer:
        """Return one model with the engine that serves it now."""
        if isinstance(model, ImageModel):
            image = self._images.engine_for(model)
            return self._offer(model, image.name) if image else Offer(model, None, self._images.why_no_engine(model))
        if isinstance(model, SpeechModel):
            voice = self._speech.engine_for(model)
            return self._offer(model, voice.name) if voice else Offer(model, None, self._speech.no_voice_reason(model))
        if isinstance(model, TranscriptionModel):
            ear = self._transcription.engine_for(model)
            return self._offer(model, ear.name) if ear else Offer(model, None, self._transcription.why_no_engine(model))
        engine = self._chats.engine_for(model)
        if engine is None:
            return Offer(model, None, self._chats.routes.why_none(model))
        offer = self._offer(model, engine.name, sees=accepts_images(model, engine))
        return msgspec.structs.replace(offer, context=min(model.context, engine.context_tokens() or model.context))

    def _offer(self, model: Model, engine: str, *, sees: bool = False) -> Offer:
        is_stand_in = self.stand_ins.is_stand_in(engine, model.name)
        name = self.stand_ins.own_name(engine) if is_stand_in else None
        return Offer(model, engine, None, sees, name, self.stand_ins.is_free(engine, model.name))

    def stand_ins_now(self) -> dict[str, str]:
        """Return the models that a stand-in serves now, with the name of that."""
        return {offer.model.name: offer.stand_in for offer in self.offers() if offer.stand_in is not None}

    def public_engine(self, engine: str) -> str | None:
        """Return the name of an engine that customers may see: the one that the catalog gives it for them."""
        entry = self.catalog.engines.get(engine)
        return entry.public_name or None if entry is not None else None

    def engines(self) -> list[EngineHealth]:
        """Return the health of every engine that a model of the catalog names."""
        used: dict[str, list[Model]] = {}
        for model in self.models().values():
            for name in model.engines:
                used.setdefault(name, []).append(model)
        offers = {offer.model.name: offer for offer in self.offers()}
        return [self._engine(name, models, offers) for name, models in used.items()]

    def _engine(self, name: str, models: list[Model], offers: dict[str, Offer]) -> EngineHealth:
        router, entry = self._chats.routes, self.catalog.engines[name]
        answered = [offers[model.name] for model in models if offers[model.name].engine == name]
        chat, voice = self._chats.engines.get(name), self._speech.engines.get(name)
        image = self._images.engines.get(name)
        engine, why_not = chat or voice, None
        if engine is not None:
            why_not = engine.why_not_ready()
        elif image is not None and not answered:
            why_not = image.why_not_ready(models[0].name)
        limit = None if engine is None else engine.concurrency
        results = {"succeeded": 0, "failed": 0}
        for (other, _, result), count in router.meters.engine_results.items():
            if other == name and result in results:
                results[result] += count
        return EngineHealth(
            name,
            entry.kind,
            tuple(model.name for model in models),
            tuple(offer.model.name for offer in answered if offer.stand_in is not None),
            why_not,
            router.breakers[name].describe(self._chats.clock.steady_s()) if entry.is_upstream and chat else None,
            None if limit is None else limit.load,
            results["succeeded"],
            results["failed"],
            router.meters.last_failures.get(name),
        )

    def voices(self) -> list[VoiceEntry]:
        """Return every voice that is ready, once."""
        voices = (voice for model in self.catalog.speech.values() for voice in self._speech.ready_voices(model))
        return list({voice.id: voice for voice in voices}.values())

    async def balance(self, caller: Caller) -> Balance:
        """Return the posted and held amounts of the caller's account, as committed."""
        return await self._database.read_async(accounts.balance_of, caller.account_id)

    async def plan(self, caller: Caller) -> PlanNow | None:
        """Return the plan of the caller's account, None if it has none now."""
        return await self._database.read_async(purses.plan_now, caller.account_id, self.now_ms())

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
