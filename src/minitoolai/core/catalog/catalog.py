"""Catalog types: models, prices, limits, voices and engines. catalog_loader.py reads them from a file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from minitoolai.core.catalog.prices import OPTIONAL_BUCKETS, Prices, Tier
from minitoolai.core.catalog.selling import Group, Plan
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.catalog.tax import Tax
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.errors import ModelNotFound
from minitoolai.core.money import price_per_request, price_per_unit

# ── speech ────────────────────────────────────────────────────────────────────────────────────────────────────────


class VoiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Voice: its engine, language and licence."""

    #: The name in a request, and the engine of the voice.
    id: str
    engine: str
    #: A language tag like en-US; "*" for a voice that speaks any language.
    language: str
    #: The licence of the voice.
    licence: str
    #: Other names of this voice, used if no available voice has that ID.
    aliases: list[str] = []
    #: File of the voice, in MINITOOLAI_VOICES_DIR unless the path is absolute; "" if the engine includes it.
    file: str = ""
    #: Embedded voices: how much higher (above 1) or lower the voice speaks than its file, 0.7 to 1.4.
    pitch: float = 1.0


class SpeechEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Speech model in the file. The price is dollars per million characters, as a string."""

    #: Dollars per million characters, in quotes.
    price: str
    #: Maximum length of the text of one request.
    max_characters: int
    #: The default voice, and all voices in order of preference.
    voice: str
    voices: list[VoiceEntry]
    #: Other names under which the model is offered, at the same price.
    aliases: list[str] = []


class SpeechModel(msgspec.Struct, frozen=True):
    """Speech model, validated. The price is nano-dollars per character."""

    name: str
    price: int
    max_characters: int
    #: Voice of a request without `voice`.
    default_voice: str
    voices: tuple[VoiceEntry, ...]

    @property
    def engines(self) -> tuple[str, ...]:
        """Return the engines of its voices, in catalog order."""
        return tuple(dict.fromkeys(voice.engine for voice in self.voices))


def find_voice(name: str, voices: list[VoiceEntry]) -> VoiceEntry | None:
    """Return the voice with this ID, or the first one with this alias, ignoring case."""
    wanted = name.lower()
    for voice in voices:
        if voice.id.lower() == wanted:
            return voice
    return next((voice for voice in voices if wanted in (alias.lower() for alias in voice.aliases)), None)


def voices_by_name(voices: list[VoiceEntry]) -> dict[str, VoiceEntry]:
    """Return every ID and alias of these voices."""
    names = {alias: voice for voice in voices for alias in voice.aliases}
    return names | {voice.id: voice for voice in voices}


def language_of(tag: str) -> str:
    """Return the language of a tag: `en` for `en-US`."""
    return tag.replace("_", "-").partition("-")[0].lower()


# ── prices by bucket ──────────────────────────────────────────────────────────────────────────────────────────────


class PricesEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices in the file: dollars per million tokens, as strings with at most six decimals."""

    #: dollars per million input and output tokens, in quotes, at most six decimals.
    input: str
    output: str
    #: tokens read from the upstream's prompt cache; absent: as input.
    cached_input: str | None = None
    #: tokens written to the upstream's prompt cache, for minutes and for an hour; absent: as input.
    cache_write: str | None = None
    cache_write_1h: str | None = None
    #: input tokens of audio and of images; absent: as input.
    audio_input: str | None = None
    image_input: str | None = None
    #: output tokens of reasoning and of audio; absent: as output.
    reasoning: str | None = None
    audio_output: str | None = None
    #: dollars for each request that used tokens, in quotes, at most nine decimals.
    request: str | None = None


class TierEntry(PricesEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices of requests with a prompt of more than `above` tokens. They apply to all tokens of such a request."""

    #: tokens of the prompt, above those of the tier before.
    above: Annotated[int, msgspec.Meta(ge=1)]


class InvalidPrice(ValueError):
    """An invalid price in the catalog: its key, and what to write instead."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(f"{key}: {remedy}")
        self.key, self.remedy = key, remedy


def read_prices(entry: PricesEntry, tiers: Iterable[TierEntry] = ()) -> Prices:
    """Return the prices of an entry and its tiers. Raise InvalidPrice.

    A tier must name the same buckets as the entry. A bucket missing there could mean the price below the tier, or the
    tier's `input`, and one of the two would be wrong by a factor of ten.
    """
    read: list[Tier] = []
    for tier in tiers:
        if read and tier.above <= read[-1].above:
            raise InvalidPrice("tiers", f"above = {tier.above} must be more than the {read[-1].above} before it")
        for key in (*OPTIONAL_BUCKETS, "request"):
            if (getattr(tier, key) is None) != (getattr(entry, key) is None):
                where = f"the tier above {tier.above}"
                have, lack = (where, "the model") if getattr(entry, key) is None else ("the model", where)
                raise InvalidPrice("tiers", f"{have} has a price for {key}, {lack} has none: write both or neither")
        try:
            read.append(Tier(tier.above, _read_entry(tier)))
        except InvalidPrice as error:
            raise InvalidPrice("tiers", f"{error.key} above {tier.above}: {error.remedy}") from None
    return _read_entry(entry, tuple(read))


def _read_entry(entry: PricesEntry, tiers: tuple[Tier, ...] = ()) -> Prices:
    given = {key: text for key in OPTIONAL_BUCKETS if (text := getattr(entry, key)) is not None}
    prices = {
        key: _read_price(key, text) for key, text in {"input": entry.input, "output": entry.output, **given}.items()
    }
    request = 0
    if entry.request is not None:
        try:
            request = price_per_request(entry.request)
        except (ValueError, ArithmeticError):
            remedy = 'request = "0.001" means dollars per request, at most nine decimals, at most $1'
            raise InvalidPrice("request", remedy) from None
    return Prices.of(request=request, tiers=tiers, **prices)


def _read_price(key: str, text: str) -> int:
    try:
        return price_per_unit(text)
    except (ValueError, ArithmeticError):
        remedy = f'"{text}" is not a price; {key} = "0.15" means dollars per million tokens, at most six decimals'
        raise InvalidPrice(key, remedy) from None


# ── upstream costs ────────────────────────────────────────────────────────────────────────────────────────────────
#
# What upstreams charge the operator, so that the margin of every generation is known.

#: (engine, model of the catalog) → prices; `input` is the price of a character of speech, or of a transcribed second.
UpstreamCosts = dict[tuple[str, str], Prices]


class UpstreamCost(PricesEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Upstream prices of one model, with the same keys as the prices of a chat model. `output` may be absent."""

    #: dollars per million output tokens, in quotes. For speech, `input` is the price of a million characters,
    #: for transcription that of a million seconds.
    output: str = "0"
    #: other prices for long prompts, by ascending length.
    tiers: tuple[TierEntry, ...] = ()


def find_invalid_cost(engine: EngineEntry) -> tuple[str, str] | None:
    """Return (key, remedy) of the first invalid upstream price, or None."""
    general = UpstreamCost(input=engine.cost_input or "0", output=engine.cost_output or "0")
    for entry, prefix in ((general, "cost_"), *((own, "") for own in engine.costs.values())):
        try:
            read_prices(entry, entry.tiers)
        except InvalidPrice as error:
            key = f"{prefix}{error.key}" if prefix else "costs"
            return key, f"{key} has an invalid price: {error.remedy}"
    return None


def upstream_costs(
    engines: Mapping[str, EngineEntry], models: Iterable[ChatModel | SpeechModel | TranscriptionModel]
) -> UpstreamCosts:
    """Return what each engine charges for each model that uses it. A pair without a price is left out."""
    costs: UpstreamCosts = {}
    for model in models:
        for name in model.engines:
            price = _price_of(engines[name], model.name)
            if price is not None:
                costs[name, model.name] = price
    return costs


def _price_of(engine: EngineEntry, model: str) -> Prices | None:
    own = engine.costs.get(model)
    if own is not None:
        return read_prices(own, own.tiers)
    if engine.cost_input or engine.cost_output:
        return read_prices(UpstreamCost(input=engine.cost_input or "0", output=engine.cost_output or "0"))
    return None


# ── engines and models ────────────────────────────────────────────────────────────────────────────────────────────

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
EngineKind = Literal[
    "upstream", "anthropic", "llama", "hibari", "piper", "sketch", "whisper", "webui", "diffusers", "fake"
]


class EngineEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engine in the file. Which fields apply depends on `kind`."""

    #: upstream: any OpenAI-compatible server. anthropic: chats by a server with Anthropic's API; the notes on
    #: upstream apply to it, too. llama, hibari, piper, sketch, whisper: embedded engines. webui: images by a Stable
    #: Diffusion web UI. diffusers: images on a local GPU. fake: deterministic, for tests.
    kind: EngineKind
    #: upstream: URL of the server, up to and including /v1. webui: its URL, such as http://host:7860.
    base_url: str = ""
    #: upstream, for chats: URLs of several servers that serve the same, instead of `base_url`. Each request goes to the
    #: one with the fewest in flight, and one that fails is left alone for a while.
    base_urls: tuple[str, ...] = ()
    #: upstream: it is available only if its API key is set; additional headers of every request.
    needs_key: bool = False
    headers: dict[str, str] = {}
    #: upstream: its chunks have every documented field, so the bytes can be forwarded unchanged.
    complete_chunks: bool = False
    #: upstream: it continues and bills after a disconnect, so keep reading until it reports usage.
    bills_after_cancel: bool = False
    #: upstream: tokenizer of its models, to count output for which it reported no usage. "": count bytes.
    tokenizer: Literal["", "o200k", "cl100k"] = ""
    #: upstream: name of its output limit field, and whether it supports the role `developer`.
    limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    developer_role: bool = True
    #: upstream: request fields that it ignores or does not support; requests with them are rejected.
    unsupported: tuple[str, ...] = ()
    #: upstream: request fields that it receives in addition to the documented ones, such as top_k. Others are dropped.
    forwards: tuple[str, ...] = ()
    #: upstream: it also has `/completions`; the upstream decides which of its models support it.
    completions: bool = True
    #: the engine accepts images, for models that do.
    vision: bool = True
    #: upstream: it fetches images by URL; otherwise this server fetches them and sends them with the request. Default:
    #: true only if its address is public, because a caller could make one inside your network fetch private URLs.
    fetches_images: bool | None = None
    #: upstream: model name of the upstream, by catalog name; a missing name is passed on unchanged. webui, diffusers:
    #: checkpoint or file, by catalog name; for a missing name, the model's `weights`.
    names: dict[str, str] = {}
    #: upstream: image sizes it supports, like "1024x1024"; the nearest is requested, then scaled. []: any.
    sizes: list[Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]] = []
    #: upstream, webui: uploaded images that one edit may have; 0: it only draws from words. Default: 16 for an upstream
    #: (OpenAI's), 1 for a web UI.
    edit_images: int | None = None
    #: upstream: for images it also accepts seed, num_inference_steps, guidance_scale and negative_prompt.
    extended_fields: bool = False
    #: upstream: name by which a request may choose it (`provider.order`, `only`, `ignore`). Absent: it cannot be named,
    #: and customers do not learn of it. Engines with the same name are chosen together.
    public_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    #: override the settings of the same names; absent: the settings, by default 60 and 600 s.
    first_token_timeout_s: Seconds | None = None
    total_timeout_s: Seconds | None = None
    #: upstream, webui: concurrent requests; more wait. 0 means unlimited for an upstream and 1 for a webui.
    concurrency: Count = 0
    #: upstream: length of the queue; more requests go to the model's next upstream, or get a 503.
    waiting: Count = 128
    #: upstream: retries of a request that failed before its first byte and was not billed.
    retries: Count = 1
    #: upstream: least number of failures that open the circuit breaker (0: never), and seconds of the first cooldown.
    cooldown_after: Count = 5
    cooldown_s: Seconds = 5.0
    #: upstream: upstream cost in dollars per million input and output tokens; by model where it differs.
    cost_input: str = ""
    cost_output: str = ""
    costs: dict[str, UpstreamCost] = {}
    #: upstream: maximum characters per speech request; a longer text is split.
    max_characters: Count = 4096
    #: all but upstream: model name in responses, and context length in tokens.
    model: str = ""
    context: Count = 0
    #: llama, whisper: name of a model of `minitoolai fetch`. It serves as soon as it is fetched.
    fetched: str = ""
    #: llama: a GGUF file instead of MINITOOLAI_LLAMA_MODEL; whether to start its server for embeddings, and the pooling
    #: of token vectors if the file does not specify it. whisper: the folder of a model instead of a fetched one.
    file: str = ""
    embeds: bool = False
    pooling: Literal["", "mean", "cls", "last"] = ""
    #: anthropic: how its models reason if a chat has a `reasoning_effort`: `adaptive` sends the effort, `budget` a
    #: number of tokens, for models before Claude 4.6. `none`: a chat with `reasoning_effort` is rejected.
    thinking: Literal["adaptive", "budget", "none"] = "adaptive"
    #: anthropic: its models accept a JSON schema for the response. Otherwise they get it as a tool that must be called.
    structured_outputs: bool = True
    #: diffusers, sketch, llama, hibari, piper, fake: `ray` runs it on the machines of a Ray cluster, where
    #: `minitoolai worker --ray` starts it. Absent: in a child process of each server or worker.
    placement: Literal["", "ray"] = ""
    #: placement: graphics processors of one copy; a part such as 0.5 lets two share one.
    gpus: Annotated[float, msgspec.Meta(ge=0, le=64)] = 0.0
    #: placement, for images: least and most copies, and after how many seconds without work a copy above the least is
    #: stopped. Of a language model or voices, `min` copies run, and at least one.
    min: Count = 0
    max: Count = 1
    idle_s: Seconds = 60.0
    #: fake: tokens per response, and the delay in milliseconds before each token or spoken sentence.
    tokens: Count = 16
    delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def copies(self) -> int:
        """Return how many copies of a placed server run."""
        return max(1, self.min)

    @property
    def is_upstream(self) -> bool:
        """Return True for a server that is called over HTTP: it has a circuit breaker, and others can take over."""
        return self.kind in ("upstream", "anthropic")

    @property
    def is_embedded(self) -> bool:
        """Return True for a model that comes with this program."""
        return self.kind in ("llama", "hibari", "piper", "sketch", "whisper")

    def served_name(self, model: str) -> str:
        """Return the upstream's name of a model of the catalog."""
        return self.names.get(model, model)


class ImageTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Maximum tokens per input image, by the requested `detail`."""

    #: tokens; `auto` counts as `high`.
    low: Count
    high: Count


class ChatEntry(PricesEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Chat model in the file."""

    #: context length (prompt and output) and maximum output, in tokens.
    context: int
    max_output: int
    #: in order of preference: the first available one is used.
    engines: list[str]
    #: for a model that accepts images: maximum tokens per image, by the requested `detail`.
    image_tokens: ImageTokens | None = None
    #: other prices for long prompts, as tables `[[chat."model".tiers]]`, by ascending length.
    tiers: tuple[TierEntry, ...] = ()
    #: the model accepts `reasoning_effort`, so that `thinking` of /v1/messages is translated to it; else it is dropped.
    reasoning_effort: bool = False


class ChatModel(msgspec.Struct, frozen=True):
    """Chat model, validated."""

    name: str
    prices: Prices
    context: int
    max_output: int
    engines: tuple[str, ...]
    image_tokens: ImageTokens | None
    reasoning_effort: bool = False


class EmbeddingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Embedding model in the file. The price is dollars per million tokens, as a string."""

    #: dollars per million input tokens, in quotes, at most six decimals.
    input: str
    #: maximum tokens per text.
    context: Annotated[int, msgspec.Meta(ge=1)]
    #: in order of preference: the first available one is used. A llama engine needs `embeds`.
    engines: list[str]


class EmbeddingModel(ChatModel, frozen=True):
    """Embedding model, validated: a chat model without output."""


class ImagePriceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Price of images of one size, one quality, or both. The price that says most about an image applies."""

    #: dollars per image, in quotes, at most nine decimals.
    price: str
    #: the requested size, like "1024x1024"; absent: any.
    size: Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")] | None = None
    #: the requested `quality`, like "high"; absent: any. Upstreams receive it.
    quality: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] | None = None


class ImageEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Image model in the file. The price is dollars per image, as a string."""

    #: dollars per image, in quotes, at most nine decimals; of a size and quality that `prices` does not list.
    price: str
    #: in order of preference: the first available one is used.
    engines: list[str]
    #: other prices by size and quality, as tables `[[image."model".prices]]`. A request may choose a listed quality.
    prices: tuple[ImagePriceEntry, ...] = ()
    #: file or folder with the weights, in MINITOOLAI_WEIGHTS_DIR unless the path is absolute; a web UI knows it by the
    #: same name, with or without extension. Empty: the model's name and `.safetensors`.
    weights: str = ""
    #: noise levels of the schedulers without Karras: `trailing` for checkpoints distilled to few steps (Lightning,
    #: Hyper) that need it; the image metadata records it.
    schedule: Literal["discrete", "trailing"] = "discrete"
    #: diffusers: LoRAs that a prompt may name as `<lora:name:0.8>`: name and file, in the same folder as the weights.
    loras: dict[str, str] = {}
    #: an ONNX file, in the same folder, that enlarges images for `task` `upscale`, whatever the engine. Empty, or if it
    #: fails: Lanczos's filter.
    upscaler: str = ""


class ImagePrice(msgspec.Struct, frozen=True):
    """Price of images of one size and quality in nano-dollars. An empty size or quality means any."""

    size: str
    quality: str
    price: int


class ImageModel(msgspec.Struct, frozen=True):
    """Image model, validated. The price is nano-dollars per image, if none of `prices` applies."""

    name: str
    price: int
    engines: tuple[str, ...]
    weights: str
    schedule: Literal["discrete", "trailing"] = "discrete"
    prices: tuple[ImagePrice, ...] = ()
    #: Name in a prompt → file.
    loras: dict[str, str] = {}
    #: A file, or "".
    upscaler: str = ""

    @property
    def qualities(self) -> tuple[str, ...]:
        """Return the qualities that a request may choose, in catalog order."""
        return tuple(dict.fromkeys(one.quality for one in self.prices if one.quality))

    def price_of(self, size: str, quality: str) -> int:
        """Return the price of one image: by size and quality, else by size, else by quality, else the model's."""
        listed = {(one.size, one.quality): one.price for one in self.prices}
        for key in ((size, quality), (size, ""), ("", quality)):
            if key in listed:
                return listed[key]
        return self.price


Model = ChatModel | EmbeddingModel | ImageModel | SpeechModel | TranscriptionModel


class Catalog(msgspec.Struct, frozen=True):
    """All models and engines, validated. Replaced in place when the file is read again."""

    engines: dict[str, EngineEntry]
    chat: dict[str, ChatModel]
    speech: dict[str, SpeechModel] = {}
    images: dict[str, ImageModel] = {}
    embeddings: dict[str, EmbeddingModel] = {}
    transcription: dict[str, TranscriptionModel] = {}
    upstream_costs: UpstreamCosts = {}
    shop: Shop = Shop()
    tax: Tax = Tax()
    groups: dict[str, Group] = {}
    plans: dict[str, Plan] = {}
    #: Group → the catalog with its prices.
    views: dict[str, Catalog] = {}

    def of_group(self, group: str | None) -> Catalog:
        """Return the catalog with the prices of a group. Without one, or if it is not known, with the list prices."""
        return self if group is None else self.views.get(group, self)

    def replace(self, other: Catalog) -> None:
        """Replace the contents by those of another catalog. All holders of this object then see them."""
        for field in self.__struct_fields__:
            if field in ("shop", "tax"):
                msgspec.structs.force_setattr(self, field, getattr(other, field))
                continue
            contents = getattr(self, field)
            contents.clear()
            contents.update(getattr(other, field))

    def models(self) -> dict[str, Model]:
        """Return all models of every kind by name."""
        return {**self.chat, **self.embeddings, **self.images, **self.speech, **self.transcription}

    def chat_model(self, name: str) -> ChatModel:
        """Return a model. Raise ModelNotFound, with suggestions, if there is none of this kind with this name."""
        model = self.chat.get(name)
        if model is None:
            raise _no_model("chat", name, self.chat)
        return model

    def embedding_model(self, name: str) -> EmbeddingModel:
        """Return an embedding model. Raise ModelNotFound, with suggestions, if there is none with this name."""
        model = self.embeddings.get(name)
        if model is None:
            what = f"{name} makes no embeddings" if name in self.chat else ""
            raise _no_model("embedding", name, self.embeddings, what)
        return model

    def speech_model(self, name: str) -> SpeechModel:
        """Return a model. Raise ModelNotFound, with suggestions, if there is none of this kind with this name."""
        model = self.speech.get(name)
        if model is None:
            raise _no_model("speech", name, self.speech)
        return model

    def transcription_model(self, name: str) -> TranscriptionModel:
        """Return a model. Raise ModelNotFound, with suggestions, if there is none of this kind with this name."""
        model = self.transcription.get(name)
        if model is None:
            raise _no_model("transcription", name, self.transcription)
        return model

    def image_model(self, name: str) -> ImageModel:
        """Return a model. Raise ModelNotFound, with suggestions, if there is none of this kind with this name."""
        model = self.images.get(name) or self._image_model_spelled(name)
        if model is None:
            raise _no_model("image", name, self.images)
        return model

    def _image_model_spelled(self, name: str) -> ImageModel | None:
        """Return the only model whose name differs in case, blanks, hyphens and the like, or None."""
        key = _spelling_key(name[:80])
        found = [model for known, model in self.images.items() if _spelling_key(known) == key]
        return found[0] if len(found) == 1 else None


def _no_model(kind: str, name: str, offered: dict[str, Any], what: str = "") -> ModelNotFound:
    """Return the error for an unknown model, with suggestions. Catalogs may offer no model of some kinds."""
    hint = f"no {kind} model is offered here; GET /v1/models lists the models that are"
    if offered or kind not in ("embedding", "transcription"):
        hint = suggest_names(name, offered)
    return ModelNotFound(f"{what or f'there is no {kind} model {name[:80]!r}'}; {hint}", param="model")


def _spelling_key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def suggest_names(name: str, offered: dict[str, Any]) -> str:
    """Return `the nearest are a, b`, or `on offer are a, b, c` if no name is similar."""
    close = difflib.get_close_matches(name[:80].lower(), offered, n=3, cutoff=0.5)
    if close:
        return f"the nearest {'is' if len(close) == 1 else 'are'} {', '.join(close)}"
    return f"on offer are {', '.join(sorted(offered))}"
