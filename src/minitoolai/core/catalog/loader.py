"""Load and validate catalog.toml.

Validation is strict, because a mistake here costs money: an unknown key, a missing key or a price that is not a whole
number of nano-dollars raises a CatalogError that names the line and the remedy.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import (
    Catalog,
    ChatEntry,
    ChatModel,
    EmbeddingEntry,
    EmbeddingModel,
    EngineEntry,
    ImageEntry,
    ImageModel,
    ImagePrice,
    ImagePriceEntry,
    ImageTokens,
    InvalidPrice,
    PricesEntry,
    SpeechEntry,
    SpeechModel,
    TierEntry,
    UpstreamCost,
    find_invalid_cost,
    read_prices,
    suggest_names,
    upstream_costs,
)
from minitoolai.core.catalog.groups import catalog_of
from minitoolai.core.catalog.selling import (
    Group,
    GroupEntry,
    InvalidSelling,
    Plan,
    PlanEntry,
    read_group,
    read_plan,
)
from minitoolai.core.catalog.shop import InvalidShop, Shop, ShopEntry, read_shop
from minitoolai.core.catalog.tax import InvalidTax, Tax, TaxEntry, read_tax
from minitoolai.core.catalog.transcription import TranscriptionEntry, TranscriptionModel, price_per_second
from minitoolai.core.errors import CatalogError
from minitoolai.core.money import price_per_character, price_per_image
from minitoolai.core.operator_input import why_bad_address, why_bad_headers
from minitoolai.core.request_fields import why_never_forwarded


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engines: dict[str, EngineEntry] = {}
    chat: dict[str, ChatEntry] = {}
    speech: dict[str, SpeechEntry] = {}
    image: dict[str, ImageEntry] = {}
    embedding: dict[str, EmbeddingEntry] = {}
    transcription: dict[str, TranscriptionEntry] = {}
    shop: ShopEntry = ShopEntry()
    tax: TaxEntry = TaxEntry()
    groups: dict[str, GroupEntry] = {}
    plans: dict[str, PlanEntry] = {}


_SECTIONS: dict[str, Any] = {
    "engines": EngineEntry,
    "chat": ChatEntry,
    "speech": SpeechEntry,
    "image": ImageEntry,
    "embedding": EmbeddingEntry,
    "transcription": TranscriptionEntry,
    "shop": ShopEntry,
    "tax": TaxEntry,
    "groups": GroupEntry,
    "plans": PlanEntry,
}
#: Types of the tables inside entries, by key.
_NESTED: dict[str, Any] = {
    "image_tokens": ImageTokens,
    "tiers": TierEntry,
    "costs": UpstreamCost,
    "prices": ImagePriceEntry,
}
#: Engine kinds by capability.
_CHAT_KINDS = ("upstream", "anthropic", "llama", "fake")
_EMBEDDING_KINDS = ("upstream", "llama", "fake")
_SPEECH_KINDS = ("upstream", "hibari", "piper", "fake")
_TRANSCRIPTION_KINDS = ("upstream", "whisper", "fake")
_IMAGE_KINDS = ("upstream", "webui", "diffusers", "sketch", "fake")
#: Kinds of engines that run in a child, which can be on another machine.
_PLACED_KINDS = ("diffusers", "sketch", "llama", "hibari", "piper", "fake")
#: Those of which jobs need more or fewer copies.
_COPIED_KINDS = ("diffusers", "sketch", "fake")
_UNPLACED = EngineEntry("fake")
#: Kinds that need no `model`: their responses carry a name of their own or that of the weights.
_NAMED_ELSEWHERE = ("upstream", "anthropic", "webui", "diffusers", "sketch")


def read_catalog(path: Path) -> Catalog:
    """Read a catalog file. Raise CatalogError, which names file, line and remedy."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise CatalogError(f"{path}: cannot be read: {error.strerror}; set MINITOOLAI_CATALOG to a file") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise CatalogError(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8") from None
    try:
        return parse_catalog(text, path.parent)
    except CatalogError as error:
        raise CatalogError(f"{path.name}, {error}") from None


def parse_catalog(text: str, folder: Path = Path()) -> Catalog:
    """Parse the text of a catalog, whose files are in `folder`. Raise CatalogError, which begins with the line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"not TOML: {error}") from None
    except RecursionError:
        raise CatalogError("not TOML: lists or tables are nested too deeply") from None
    try:
        parsed = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise _located(text, raw, str(error)) from None
    for name, entry in parsed.engines.items():
        urls = tuple(url.strip() for url in entry.base_urls)
        first = entry.base_url.strip() or (urls[0] if urls else "")
        engine = parsed.engines[name] = msgspec.structs.replace(entry, base_url=first, base_urls=urls)
        if entry.base_url and urls:
            raise _at(text, f"engines.{name}", "base_urls", "an engine has base_url or base_urls, not both")
        _check_engine(text, name, engine)
    models = {name: _check_chat(text, name, entry, parsed.engines) for name, entry in parsed.chat.items()}
    speech: dict[str, SpeechModel] = {}
    for name, spoken in parsed.speech.items():
        model = _check_speech(text, name, spoken, parsed.engines)
        for each in (name, *spoken.aliases):
            if each in speech or (each != name and each in parsed.speech):
                raise _at(text, f'speech."{name}"', "aliases", f"there are two speech models with the name {each!r}")
            speech[each] = msgspec.structs.replace(model, name=each)
    images = {name: _check_image(text, name, entry, parsed.engines) for name, entry in parsed.image.items()}
    embeddings = {name: _check_embedding(text, name, entry, parsed.engines) for name, entry in parsed.embedding.items()}
    transcription = {
        name: _check_transcription(text, name, entry, parsed.engines) for name, entry in parsed.transcription.items()
    }
    sold: list[ChatModel | SpeechModel | TranscriptionModel] = [
        *models.values(),
        *speech.values(),
        *embeddings.values(),
        *transcription.values(),
    ]
    costs = upstream_costs(parsed.engines, sold)
    shop = _check_shop(text, parsed.shop, folder)
    tax = _check_tax(text, parsed.tax, shop)
    catalog = Catalog(parsed.engines, models, speech, images, embeddings, transcription, costs, shop, tax)
    for name, group in parsed.groups.items():
        catalog.groups[name] = _check_group(text, name, group, set(catalog.models()))
    for name, plan in parsed.plans.items():
        catalog.plans[name] = _check_plan(text, name, plan)
    for name in catalog.groups:
        catalog.views[name] = catalog_of(catalog, catalog.groups[name])
    return catalog


def _check_group(text: str, name: str, entry: GroupEntry, models: set[str]) -> Group:
    try:
        return read_group(name, entry, models)
    except InvalidSelling as error:
        raise _at(text, f"groups.{name}", error.key, error.remedy) from None


def _check_plan(text: str, name: str, entry: PlanEntry) -> Plan:
    try:
        return read_plan(name, entry)
    except InvalidSelling as error:
        raise _at(text, f"plans.{name}", error.key, error.remedy) from None


def _check_shop(text: str, entry: ShopEntry, folder: Path) -> Shop:
    try:
        return read_shop(entry, folder)
    except InvalidShop as error:
        raise _at(text, "shop", error.key, error.remedy) from None


def _check_tax(text: str, entry: TaxEntry, shop: Shop) -> Tax:
    try:
        return read_tax(entry, shop.country)
    except InvalidTax as error:
        raise _at(text, "tax", error.key, error.remedy) from None


def _check_engine(text: str, name: str, engine: EngineEntry) -> None:
    table = f"engines.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise _at(
            text,
            table,
            None,
            "an engine's name is lower-case letters, digits and _, as in variable names",
        )
    _check_urls(text, table, engine)
    if engine.is_upstream and not engine.base_url.startswith(("http://", "https://")):
        raise _at(text, table, "base_url", 'an upstream needs base_url = "https://host/v1"')
    if engine.kind == "webui" and engine.base_url and not engine.base_url.startswith(("http://", "https://")):
        raise _at(text, table, "base_url", 'a webui has base_url = "http://host:7860", or none until you set it')
    if engine.base_url and (why_bad := why_bad_address(engine.base_url)) is not None:
        raise _at(text, table, "base_url", why_bad)
    if (why_bad := why_bad_headers(engine.headers)) is not None:
        raise _at(text, table, "headers", why_bad)
    if engine.kind not in _NAMED_ELSEWHERE and not engine.model:
        raise _at(text, table, "model", f'a {engine.kind} engine needs model = "the name that responses carry"')
    if engine.kind == "anthropic" and engine.tokenizer:
        raise _at(text, table, "tokenizer", "Anthropic's tokenizer is not public; remove the line")
    if (invalid := find_invalid_cost(engine)) is not None:
        raise _at(text, table, *invalid)
    for field in engine.forwards:
        if (why_never := why_never_forwarded(field)) is not None:
            raise _at(text, table, "forwards", why_never)
    if engine.kind == "llama" and engine.context < 512:
        raise _at(text, table, "context", "a llama engine needs context = 4096, or at least 512, tokens")
    _check_placement(text, table, engine)


def _check_placement(text: str, table: str, engine: EngineEntry) -> None:
    if not engine.placement:
        for field in ("gpus", "min", "max", "idle_s"):
            if getattr(engine, field) != getattr(_UNPLACED, field):
                raise _at(text, table, field, f'{field} needs placement = "ray"')
        return
    if engine.kind not in _PLACED_KINDS:
        kinds = ", ".join(_PLACED_KINDS)
        raise _at(text, table, "placement", f"Ray places engines of the kinds {kinds}; this one is {engine.kind}")
    if engine.kind == "llama" and (engine.embeds or not engine.file):
        remedy = "a llama engine on Ray needs file, which is on each machine, and cannot have embeds"
        raise _at(text, table, "placement", remedy)
    if engine.gpus > 1 and engine.gpus % 1:
        raise _at(text, table, "gpus", f"gpus = {engine.gpus:g} must be a whole number, or less than 1")
    if engine.kind in _COPIED_KINDS and engine.max < max(1, engine.min):
        raise _at(text, table, "max", f"max = {engine.max} must be at least 1, and at least min = {engine.min}")


def _check_urls(text: str, table: str, engine: EngineEntry) -> None:
    for url in engine.base_urls:
        if engine.kind != "upstream":
            raise _at(text, table, "base_urls", 'only an engine with kind = "upstream" has several addresses')
        if not url.startswith(("http://", "https://")) or why_bad_address(url) is not None:
            raise _at(text, table, "base_urls", f"{url!r} is not an address like https://host/v1")


def _check_chat(text: str, name: str, entry: ChatEntry, engines: dict[str, EngineEntry]) -> ChatModel:
    table = f'chat."{name}"'
    try:
        prices = read_prices(entry, entry.tiers)
    except InvalidPrice as error:
        raise _at(text, table, error.key, error.remedy) from None
    _check_order(text, table, entry.engines, engines, _CHAT_KINDS, "chat")
    if entry.max_output < 16 or entry.context < entry.max_output:
        raise _at(text, table, "max_output", "max_output must be at least 16 and at most context")
    if entry.tiers and entry.tiers[-1].above >= entry.context:
        raise _at(text, table, "tiers", f"above = {entry.tiers[-1].above} must be below context = {entry.context}")
    return ChatModel(
        name,
        prices,
        entry.context,
        entry.max_output,
        tuple(entry.engines),
        entry.image_tokens,
        entry.reasoning_effort,
    )


def _check_embedding(text: str, name: str, entry: EmbeddingEntry, engines: dict[str, EngineEntry]) -> EmbeddingModel:
    table = f'embedding."{name}"'
    try:
        prices = read_prices(PricesEntry(input=entry.input, output="0"))
    except InvalidPrice as error:
        raise _at(text, table, error.key, error.remedy) from None
    _check_order(text, table, entry.engines, engines, _EMBEDDING_KINDS, "make embeddings")
    for engine in entry.engines:
        if engines[engine].kind == "llama" and not engines[engine].embeds:
            raise _at(text, table, "engines", f"the engine {engine} needs embeds = true to make embeddings")
    return EmbeddingModel(name, prices, entry.context, 0, tuple(entry.engines), None)


def _check_order(
    text: str, table: str, order: list[str], engines: dict[str, EngineEntry], kinds: tuple[str, ...], verb: str
) -> None:
    if not order:
        raise _at(text, table, "engines", 'engines = ["…"] needs at least one name')
    for engine in order:
        if engine not in engines:
            raise _at(text, table, "engines", f"there is no [engines.{engine}]; {suggest_names(engine, engines)}")
        if engines[engine].kind not in kinds:
            capable = ", ".join(kinds)
            raise _at(text, table, "engines", f"the engine {engine} cannot {verb}; the kinds that can are {capable}")


def _check_image(text: str, name: str, entry: ImageEntry, engines: dict[str, EngineEntry]) -> ImageModel:
    table = f'image."{name}"'
    try:
        price = price_per_image(entry.price)
    except (ValueError, ArithmeticError):
        remedy = 'price = "0.0015" means dollars per image, at most nine decimals, at most $1'
        raise _at(text, table, "price", remedy) from None
    _check_order(text, table, entry.engines, engines, _IMAGE_KINDS, "generate images")
    prices = tuple(_image_prices(text, table, entry, engines))
    _check_loras(text, table, entry, engines)
    weights = entry.weights or f"{name}.safetensors"
    if entry.upscaler and not entry.upscaler.endswith(".onnx"):
        raise _at(text, table, "upscaler", f"{entry.upscaler!r} is not an .onnx file, and no other is read")
    return ImageModel(name, price, tuple(entry.engines), weights, entry.schedule, prices, entry.loras, entry.upscaler)


_LORA_NAME = re.compile(r"[^<>:\s](?:[^<>:\n]{0,62}[^<>:\s])?")


def _check_loras(text: str, table: str, entry: ImageEntry, engines: dict[str, EngineEntry]) -> None:
    if entry.loras and not any(engines[name].kind == "diffusers" for name in entry.engines):
        raise _at(text, table, "loras", "loras needs an engine of kind diffusers among the model's engines")
    strange = next((name for name in entry.loras if not _LORA_NAME.fullmatch(name)), None)
    if strange is not None:
        raise _at(text, table, "loras", f"{strange!r} is no name for a prompt: 1 to 64 characters without < > :")
    if len({name.casefold() for name in entry.loras}) < len(entry.loras):
        raise _at(text, table, "loras", "two LoRAs have the same name but for its case")
    wrong = next((file for file in entry.loras.values() if not file.endswith(".safetensors")), None)
    if wrong is not None:
        raise _at(text, table, "loras", f"{wrong!r} is not a .safetensors file, and no other is read")


def _image_prices(text: str, table: str, entry: ImageEntry, engines: dict[str, EngineEntry]) -> Iterator[ImagePrice]:
    """Yield the prices by size and quality."""
    seen: set[tuple[str | None, str | None]] = set()
    for one in entry.prices:
        key = one.size, one.quality
        if key == (None, None):
            raise _at(text, table, "prices", "a price needs a size, a quality, or both")
        if key in seen:
            raise _at(text, table, "prices", f"two prices for size {one.size or 'any'}, quality {one.quality or 'any'}")
        seen.add(key)
        deaf = [name for name in entry.engines if engines[name].kind not in ("upstream", "fake")]
        if one.quality is not None and deaf:
            raise _at(text, table, "prices", f"the engine {deaf[0]} knows no quality: write a price by size only")
        try:
            yield ImagePrice(one.size or "", one.quality or "", price_per_image(one.price))
        except (ValueError, ArithmeticError):
            remedy = 'price = "0.042" means dollars per image, at most nine decimals, at most $1'
            raise _at(text, table, "prices", remedy) from None


def _check_speech(text: str, name: str, entry: SpeechEntry, engines: dict[str, EngineEntry]) -> SpeechModel:
    table = f'speech."{name}"'
    try:
        price = price_per_character(entry.price)
    except (ValueError, ArithmeticError):
        remedy = 'price = "15.00" means dollars per million characters, at most three decimals'
        raise _at(text, table, "price", remedy) from None
    if entry.max_characters < 1:
        raise _at(text, table, "max_characters", "max_characters must be at least 1")
    ids = [voice.id for voice in entry.voices]
    if len(set(ids)) != len(ids):
        raise _at(text, table, "voices", "two voices have the same id")
    for voice in entry.voices:
        if voice.engine not in engines:
            raise _at(
                text, table, "voices", f"there is no [engines.{voice.engine}]; {suggest_names(voice.engine, engines)}"
            )
        if engines[voice.engine].kind not in _SPEECH_KINDS:
            raise _at(text, table, "voices", f"the engine {voice.engine} of voice {voice.id} cannot generate speech")
        if not 0.7 <= voice.pitch <= 1.4:
            raise _at(text, table, "voices", f"the pitch of voice {voice.id} must be 0.7 to 1.4")
    if entry.voice not in ids:
        raise _at(
            text,
            table,
            "voice",
            f"no voice has the id {entry.voice!r}; {suggest_names(entry.voice, dict.fromkeys(ids))}",
        )
    return SpeechModel(name, price, entry.max_characters, entry.voice, tuple(entry.voices))


def _check_transcription(
    text: str, name: str, entry: TranscriptionEntry, engines: dict[str, EngineEntry]
) -> TranscriptionModel:
    table = f'transcription."{name}"'
    try:
        price = price_per_second(entry.price)
    except ValueError as error:
        raise _at(text, table, "price", f'{error}; price = "0.006" means dollars per minute') from None
    _check_order(text, table, entry.engines, engines, _TRANSCRIPTION_KINDS, "transcribe")
    if not entry.formats:
        raise _at(text, table, "formats", 'formats = ["json", …] needs at least one format')
    return TranscriptionModel(name, price, tuple(entry.engines), entry.formats, entry.translates, entry.max_seconds)


def _at(text: str, table: str, key: str | None, remedy: str) -> CatalogError:
    """Return an error with the line of `key` in `[table]`, or of the table header if the key is missing."""
    in_table, found, found_key = False, 0, 0
    wanted = _bare(table)
    for line, content in enumerate(text.splitlines(), 1):
        stripped = content.strip()
        if stripped.startswith("["):
            head = _bare(stripped.split("]")[0].strip("["))
            in_table = head == wanted
            # For a table that exists only as subtables, the first of them; for a key that is a subtable, the last.
            found = line if in_table or (not found and head.startswith(f"{wanted}.")) else found
            found_key = line if key and f"{head}.".startswith(f"{wanted}.{key}.") else found_key
        elif in_table and key and re.match(rf"{re.escape(key)}\s*=", stripped):
            found_key = line
            break
        elif not found and _bare(stripped.split("=")[0]) in (wanted, wanted.rpartition(".")[2]):
            found = line
    found = found_key or found
    where = f"line {found}" if found else "at the top"
    return CatalogError(f"{where}: [{table}]{' ' + key if key else ''}: {remedy}")


def _bare(name: str) -> str:
    return re.sub(r"[\s\"']", "", name)


def _located(text: str, raw: dict[str, Any], message: str) -> CatalogError:
    """Turn an error of msgspec, which ends in a path such as `$.chat[...].input`, into one with the line."""
    what, _, path = message.partition(" - at `$")
    section = re.match(r"\.(\w+)", path)
    field = re.search(r"\]\.(\w+)", path)
    unknown = re.search(r"unknown field `(.+)`", what)
    key = field.group(1) if field else unknown.group(1) if unknown else None
    if section is None:
        return _at(text, str(key), None, f"there is no such table; {suggest_names(str(key), _keys(_File))}")
    kind: Any = _SECTIONS[section.group(1)]
    entries = raw[section.group(1)]
    if kind in (ShopEntry, TaxEntry):
        key = (re.match(r"\.\w+\.(\w+)", path) or [None, key])[1]
        return _at(text, section.group(1), key, _remedy(what, _keys(kind)))
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            msgspec.convert(entry, kind)
        except msgspec.ValidationError:
            quoted = name if re.fullmatch(r"\w+", name) else f'"{name}"'
            known = _keys(_NESTED.get(field.group(1), kind) if field else kind)
            return _at(text, f"{section.group(1)}.{quoted}", key, _remedy(what, known))
    return _at(text, section.group(1), None, _remedy(what, {}))


def _keys(kind: Any) -> dict[str, Any]:
    return dict.fromkeys(field.name for field in msgspec.structs.fields(kind))


def _remedy(what: str, known: dict[str, Any]) -> str:
    """Return msgspec's message with what to do about it."""
    name = re.search(r"field `(.+)`", what)
    if "unknown field" in what and name:
        return f"there is no key {name[1]}; {suggest_names(name[1], known)}"
    if "missing required field" in what and name:
        return f"needs a line {name[1]} = …"
    if "Expected `str" in what:
        return f"{what}; write it in quotes"
    if "Invalid enum value" in what:
        return (
            f"{what}; the kinds are upstream, anthropic, llama, hibari, piper, sketch, whisper, webui, diffusers and "
            "fake, the limit fields max_completion_tokens and max_tokens, the schedules discrete and trailing, the "
            "tokenizers o200k and cl100k, the ways of thinking adaptive, budget and none"
        )
    return what
