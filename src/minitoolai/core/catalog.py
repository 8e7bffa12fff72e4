"""What is on offer: models, prices, limits and the engines that may answer. catalog_file.py reads it from a file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec

from minitoolai.core.errors import ModelNotFound
from minitoolai.core.money import price_per_token

# (merged from voices) Speech as the catalog offers it: models, their voices, and which voice a name means.


class VoiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One voice: who speaks it, in which language, and on which terms."""

    #: The name in a request, and who speaks it.
    id: str
    engine: str
    #: A tag like en-US; "*" for a voice that speaks whatever it is given.
    language: str
    #: The terms on which it may be used.
    licence: str
    #: Other names that mean this voice where no ready voice has the name itself.
    aliases: list[str] = []
    #: The voice's file, in MINITOOLAI_VOICES_DIR unless the path is absolute; "" where the engine brings it along.
    file: str = ""


class SpeechEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A speech model as offered. The price is dollars for a million characters, as text."""

    #: Dollars for a million characters, in quotes.
    price: str
    #: The longest text of one request.
    max_characters: int
    #: The voice of a request that names none, and all there are, in order.
    voice: str
    voices: list[VoiceEntry]


class SpeechModel(msgspec.Struct, frozen=True):
    """A speech model, checked. The price is nano-dollars a character."""

    name: str
    price: int
    max_characters: int
    #: The voice of a request that names none.
    default_voice: str
    voices: tuple[VoiceEntry, ...]

    @property
    def engines(self) -> tuple[str, ...]:
        """Who speaks its voices, in the order of the catalog."""
        return tuple(dict.fromkeys(voice.engine for voice in self.voices))


def find_voice(name: str, voices: list[VoiceEntry]) -> VoiceEntry | None:
    """The voice of this name; failing that, the first that has it as an alias. Letter case means nothing."""
    wanted = name.lower()
    for voice in voices:
        if voice.id.lower() == wanted:
            return voice
    return next((voice for voice in voices if wanted in (alias.lower() for alias in voice.aliases)), None)


def voices_by_name(voices: list[VoiceEntry]) -> dict[str, VoiceEntry]:
    """Every name that means one of these voices."""
    names = {alias: voice for voice in voices for alias in voice.aliases}
    return names | {voice.id: voice for voice in voices}


def language_of(tag: str) -> str:
    """The language in a tag: `en` of `en-US`."""
    return tag.replace("_", "-").partition("-")[0].lower()


# (merged from purchase) What an upstream charges us, so that the margin of every answer is known.

#: (engine, model as offered here) → nano-dollars a unit read and written.
UpstreamCosts = dict[tuple[str, str], tuple[int, int]]


class UpstreamCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model costs us: dollars for a million units, as text."""

    #: dollars for a million tokens read and written, in quotes; of speech, `input` for a million characters.
    input: str
    output: str = "0"


class Sold(Protocol):
    """A model on offer."""

    @property
    def name(self) -> str: ...

    @property
    def engines(self) -> tuple[str, ...]:
        """Who answers for it, in order."""


class Seller(Protocol):
    """The part of an engine's entry that speaks of money."""

    @property
    def cost_input(self) -> str: ...

    @property
    def cost_output(self) -> str: ...

    @property
    def costs(self) -> dict[str, UpstreamCost]: ...


def find_invalid_cost(engine: Seller) -> tuple[str, str] | None:
    """(key, remedy) of the first price that is none, else None."""
    prices = [("cost_input", engine.cost_input or "0"), ("cost_output", engine.cost_output or "0")]
    prices += [("costs", text) for price in engine.costs.values() for text in (price.input, price.output)]
    for key, text in prices:
        if _is_wrong(text):
            return key, f'{key} has a price that is none: "0.15" means dollars a million units, at most three decimals'
    return None


def _is_wrong(text: str) -> bool:
    try:
        price_per_token(text)
    except (ValueError, ArithmeticError):
        return True
    return False


def upstream_costs(engines: Mapping[str, Seller], models: Iterable[Sold]) -> UpstreamCosts:
    """What each engine charges for each model that names it; a pair without a price is left out."""
    found: UpstreamCosts = {}
    for model in models:
        for name in model.engines:
            price = _price_of(engines[name], model.name)
            if price is not None:
                found[name, model.name] = price
    return found


def _price_of(engine: Seller, model: str) -> tuple[int, int] | None:
    own = engine.costs.get(model)
    if own is not None:
        return price_per_token(own.input), price_per_token(own.output)
    if engine.cost_input or engine.cost_output:
        return price_per_token(engine.cost_input or "0"), price_per_token(engine.cost_output or "0")
    return None


Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class EngineEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine: somebody who answers. Which fields mean something depends on `kind`."""

    #: any OpenAI-compatible server; an embedded engine (llama, hibari, piper, sketch); pictures by a Stable Diffusion
    #: web UI (webui) or on a GPU here (diffusers); or a deterministic stand-in for tests.
    kind: Literal["upstream", "llama", "hibari", "piper", "sketch", "webui", "diffusers", "fake"]
    #: upstream: an OpenAI-compatible server, up to and including /v1. webui: its address, such as http://host:7860.
    base_url: str = ""
    #: upstream: it is ready only once its key is set; what else to send with every request.
    needs_key: bool = False
    headers: dict[str, str] = {}
    #: upstream: its chunks carry every documented field, so that bytes are forwarded as they come.
    complete_chunks: bool = False
    #: upstream: it goes on, and bills, after we hang up; so we read on to the usage it reports.
    bills_after_cancel: bool = False
    #: upstream: how it calls the limit, and whether it knows the role `developer`.
    limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    developer_role: bool = True
    #: upstream: fields that it ignores or does not know; here they are refused, for silence would be a lie.
    unsupported: tuple[str, ...] = ()
    #: upstream: it continues plain text, too, at `/completions`; which of its models do is for it to say.
    completions: bool = True
    #: it sees pictures, where the model does.
    vision: bool = True
    #: upstream: it fetches the pictures that a URL names; where it does not, they are fetched here and sent along.
    fetches_images: bool = True
    #: upstream: model name there, by model name here; a name that is absent is passed on as it is. webui, diffusers:
    #: checkpoint or file there, by model name here; for a name that is absent, the model's `weights`.
    names: dict[str, str] = {}
    #: upstream: sizes of pictures that it draws, like "1024x1024"; the nearest is asked for, then scaled. []: any.
    sizes: list[Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]] = []
    #: upstream: for pictures it takes seed, num_inference_steps, guidance_scale and negative_prompt, too.
    extended_fields: bool = False
    #: instead of the settings of the same names.
    first_token_timeout_s: Seconds | None = None
    total_timeout_s: Seconds | None = None
    #: upstream, webui: requests under way at once; more wait. 0 is no cap for an upstream, one for a webui.
    concurrency: Count = 0
    #: upstream: how many may wait for the cap; more go to the model's next upstream, or are a 503.
    waiting: Count = 128
    #: upstream: how often a request is sent again that failed before its first byte, where that is billed to nobody.
    retries: Count = 1
    #: upstream: failures in a row after which it rests, and seconds of the first rest. After 0 it never rests.
    cooldown_after: Count = 5
    cooldown_s: Seconds = 5.0
    #: upstream: what it charges us, dollars for a million tokens read and written; by model where it differs.
    cost_input: str = ""
    cost_output: str = ""
    costs: dict[str, UpstreamCost] = {}
    #: upstream: characters of text in one request for speech; a longer text is sent in several.
    max_characters: Count = 4096
    #: everybody but an upstream: the name that answers carry, and tokens of prompt and answer together.
    model: str = ""
    context: Count = 0
    #: llama: a GGUF file instead of MINITOOLAI_LLAMA_MODEL; whether its server is started for embeddings, and how the
    #: tokens of a text become one vector where the file does not say.
    file: str = ""
    embeds: bool = False
    pooling: Literal["", "mean", "cls", "last"] = ""
    #: fake: tokens of an answer, and milliseconds before each of them or before each sentence spoken.
    tokens: Count = 16
    delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class ImageTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most one picture can count, by the `detail` asked for."""

    #: tokens; `auto` counts as `high`.
    low: Count
    high: Count


class ChatEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A chat model as offered. Prices are dollars for a million tokens, as text."""

    #: dollars for a million tokens read and written, in quotes, at most three decimals.
    input: str
    output: str
    #: tokens of prompt and answer together, and the most that an answer may have.
    context: int
    max_output: int
    #: in order: the first that is ready answers.
    engines: list[str]
    #: for a model that sees: the most one picture counts, by the `detail` asked for.
    image_tokens: ImageTokens | None = None


class ChatModel(msgspec.Struct, frozen=True):
    """A chat model, checked. Prices are nano-dollars a token."""

    name: str
    price_input: int
    price_output: int
    context: int
    max_output: int
    engines: tuple[str, ...]
    image_tokens: ImageTokens | None


class EmbeddingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that turns text into vectors, as offered. The price is dollars for a million tokens, as text."""

    #: dollars for a million tokens read, in quotes, at most three decimals.
    input: str
    #: tokens of one text at most.
    context: Annotated[int, msgspec.Meta(ge=1)]
    #: in order: the first that is ready answers; of the kind llama only one with `embeds`.
    engines: list[str]


class EmbeddingModel(ChatModel, frozen=True):
    """A model that turns text into vectors, checked: one that reads and writes nothing."""


class ImageEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image model as offered. The price is dollars an image, as text."""

    #: dollars an image, in quotes, at most nine decimals.
    price: str
    #: in order: the first that is ready draws.
    engines: list[str]
    #: the file or folder that the operator supplies, in MINITOOLAI_WEIGHTS_DIR unless the path is absolute; a web UI
    #: knows it by the same name, with or without its ending. Empty: the model's name and `.safetensors`.
    weights: str = ""
    #: noise levels of the schedulers without Karras: `trailing` for checkpoints distilled to few steps (Lightning,
    #: Hyper) that want it; the picture's metadata says so.
    schedule: Literal["discrete", "trailing"] = "discrete"


class ImageModel(msgspec.Struct, frozen=True):
    """An image model, checked. The price is nano-dollars an image."""

    name: str
    price: int
    engines: tuple[str, ...]
    weights: str
    schedule: Literal["discrete", "trailing"] = "discrete"


Model = ChatModel | EmbeddingModel | ImageModel | SpeechModel


class Catalog(msgspec.Struct, frozen=True):
    """Everything on offer."""

    engines: dict[str, EngineEntry]
    chat: dict[str, ChatModel]
    speech: dict[str, SpeechModel] = {}
    images: dict[str, ImageModel] = {}
    embeddings: dict[str, EmbeddingModel] = {}
    upstream_costs: UpstreamCosts = {}

    def models(self) -> dict[str, Model]:
        """Every model by its name, whatever it does."""
        return {**self.chat, **self.embeddings, **self.images, **self.speech}

    def chat_model(self, name: str) -> ChatModel:
        """The model of this name; ModelNotFound lists the nearest ones."""
        model = self.chat.get(name)
        if model is None:
            raise ModelNotFound(
                f"there is no chat model {name[:80]!r}; {suggest_names(name, self.chat)}", param="model"
            )
        return model

    def embedding_model(self, name: str) -> EmbeddingModel:
        """The model of this name; ModelNotFound names those that there are."""
        model = self.embeddings.get(name)
        if model is None:
            able = (
                suggest_names(name, self.embeddings)
                if self.embeddings
                else "the operator offers none (see [embedding] in the catalog)"
            )
            what = f"{name} makes no embeddings" if name in self.chat else f"there is no embedding model {name[:80]!r}"
            raise ModelNotFound(f"{what}; {able}", param="model")
        return model

    def speech_model(self, name: str) -> SpeechModel:
        """The model of this name; ModelNotFound lists the nearest ones."""
        model = self.speech.get(name)
        if model is None:
            raise ModelNotFound(
                f"there is no speech model {name[:80]!r}; {suggest_names(name, self.speech)}", param="model"
            )
        return model

    def image_model(self, name: str) -> ImageModel:
        """The model of this name; ModelNotFound lists the nearest ones."""
        model = self.images.get(name)
        if model is None:
            raise ModelNotFound(
                f"there is no image model {name[:80]!r}; {suggest_names(name, self.images)}", param="model"
            )
        return model


def suggest_names(name: str, offered: dict[str, Any]) -> str:
    """`the nearest are a, b` or, where nothing is near, `on offer are a, b, c`."""
    close = difflib.get_close_matches(name[:80].lower(), offered, n=3, cutoff=0.5)
    if close:
        return f"the nearest {'is' if len(close) == 1 else 'are'} {', '.join(close)}"
    return f"on offer are {', '.join(sorted(offered))}"
