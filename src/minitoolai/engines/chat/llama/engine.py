"""The embedded chat model: a llama.cpp server in a supervised child process, used like an upstream."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import IO, Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.clock import random_text
from minitoolai.core.counting import Tokenizer
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.failures import upstream_failure
from minitoolai.engines.chat.llama.grammars import chat_grammar, needs_grammar, read_tools
from minitoolai.engines.chat.llama.memory import (
    MAX_SLOTS,
    SPARE_BYTES,
    Sizes,
    read_shape,
    size_model,
)
from minitoolai.engines.chat.llama.preparation import ChatPreparation, ResponseType
from minitoolai.engines.chat.llama.slots import NO_ACCOUNT, SlotTable, compared_prompt
from minitoolai.engines.chat.llama.tools import as_plain_chat
from minitoolai.engines.chat.openai import UpstreamEngine, UpstreamResponse, first_prompt
from minitoolai.engines.child_process import ChildProcess, child_environment
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.fetching import FetchableModel, find_file
from minitoolai.engines.memory import OTHER_BYTES, Memory, read_memory
from minitoolai.engines.preemption import preemption
from minitoolai.engines.supervision import LONGEST_RESTART_S
from minitoolai.httpclient.client import HttpClient, HttpError

log = logging.getLogger(__name__)
#: Interval in which a running server looks for a model that is being fetched.
LOOK_EVERY_S = 1.0
#: On two slow cores, a prompt as long as the context takes minutes, and costs no provider's money.
FIRST_TOKEN_TIMEOUT_S = 600.0
#: Prompts that are counted at the same time. Each takes a connection, and with it a thread of llama.cpp's server.
MAX_COUNTING = 8


class LlamaEngine(ChildProcess):
    """The embedded model in one child process, with `slots` concurrent responses and `queue` waiting requests."""

    complete_chunks = False
    token_events = True
    tokenizer: Tokenizer | None = None
    bills_after_cancel = False
    sells_cache = False
    #: llama.cpp's own fields for sampling.
    forwards = frozenset(("top_k", "min_p", "typical_p", "repeat_penalty"))
    fetches_images = False
    plain_images = True
    speaks_messages = False
    # A model file that does not load will not load later either: report it instead.
    retries_first_start = False

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        fetched: tuple[FetchableModel, Path] | None = None,
        path: str = "",
        slots: int = 0,
        queue: int = 128,
        context: int = 0,
        threads: int = 0,
        mmproj: str = "",
        memory: Callable[[], Memory] = read_memory,
        processes: int = 1,
    ) -> None:
        """Create an engine. `slots` and `context` are chosen by the memory if they are 0.

        `processes`: number of server processes that share the memory, each with a child of its own.
        """
        super().__init__(name)
        self.label = EngineLabel.of(name, entry)
        self.first_token_timeout_s: float | None = entry.first_token_timeout_s or FIRST_TOKEN_TIMEOUT_S
        self.total_timeout_s = entry.total_timeout_s
        self._entry = entry
        self._client = client
        # Looked up once, because every request asks.
        self._has_library = util.find_spec("xllamacpp") is not None
        #: A model that may be fetched while the server runs. Until its process is up, another engine serves.
        self._fetched = fetched[0] if fetched else None
        self._was_missing = False
        self._must_be_up = False
        self._path = entry.file or path
        if fetched is not None:
            model, folder = fetched
            file = find_file(model, folder)
            self._was_missing = file is None
            self._path = str(file or folder / model.file)
            path = ""
        self._memory, self._processes = memory, processes
        self._slots, self._fixed_context = slots, context
        self._context = context or entry.context
        self._is_sized = False
        #: Why the machine is too small for a fetched model. None before the file is here.
        self._too_large: str | None = None
        self._is_measured = False
        self._served_model = Path(path).stem if path and not entry.file else entry.model
        self.concurrency = ConcurrencyLimit(slots or MAX_SLOTS, queue, name)
        self._settings: dict[str, Any] = {"slots": slots, "queue": queue, "context": self._context, "threads": threads}
        self._settings |= {"embeds": entry.embeds, "pooling": entry.pooling}
        self._slot_table = SlotTable(slots or MAX_SLOTS)
        self._mmproj = "" if entry.file or entry.fetched else mmproj
        #: Why the last start failed, and why vision is unavailable.
        self._fault: str | None = None
        self._vision_fault: str | None = None
        self._key = ""
        self._address = ""
        self._upstream: UpstreamEngine | None = None
        self._ready = asyncio.Event()
        #: Tools and response_format are put into the prompt and into a grammar here, not by llama.cpp.
        self._writes_grammars = False
        self._preparation = ChatPreparation(self._ask)
        self._counting = asyncio.Semaphore(MAX_COUNTING)

    def why_not_ready(self) -> str | None:
        if not Path(self._path).is_file():
            if self._fetched is not None:
                return f"not here: minitoolai fetch {self._fetched.name}"
            return f"no file {self._path}: MINITOOLAI_LLAMA_MODEL must name a GGUF file"
        if not self._is_measured:
            self._is_measured = True
            self._too_large = self._why_too_large()
        if self._too_large is not None:
            return self._too_large
        if self._must_be_up and not self.is_up:
            return self._fault or "it is being started"
        if not self._has_library:
            return "no llama.cpp: pip install xllamacpp"
        return self._fault

    def vision_unavailable_reason(self) -> str | None:
        """Return why the vision projector is unusable, or None. The model handles text in any case."""
        if not self._mmproj or self._vision_fault is not None:
            return self._vision_fault
        return why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")

    @property
    def vision(self) -> bool:
        return bool(self._mmproj) and self._vision_fault is None

    def context_tokens(self) -> int:
        return self._context

    @property
    def served_model(self) -> str:
        """Return the model that responses name."""
        return self._served_model

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return unsupported_field(request)

    def check_capacity(self) -> None:
        self.concurrency.check_capacity()

    def is_busy(self) -> bool:
        return self.concurrency.is_busy

    async def open(self, request: ChatRequest, limit: int) -> UpstreamResponse:
        account_id = request.account_id
        try:
            await self.concurrency.acquire(account_id, request.set_queue_place)
        finally:
            request.queue_place = None
        try:
            await self._wait_until_ready()
            assert self._upstream is not None
            return await self._open_in_slot(self._upstream, request, limit)
        except BaseException:
            self.concurrency.release(account_id)
            raise

    async def _open_in_slot(self, upstream: UpstreamEngine, request: ChatRequest, limit: int) -> UpstreamResponse:
        """Send a chat to the slot that holds the beginning of its conversation, if there is one."""
        response_type: ResponseType = UpstreamResponse
        if self._writes_grammars and needs_grammar(request):
            request, response_type = await self._preparation.prepare(request)
        table, account_id, prompt = self._slot_table, request.account_id, compared_prompt(request)
        slot = table.take(account_id, prompt)
        own = {"cache_prompt": False} if slot is None else {"id_slot": slot.number, "cache_prompt": slot.may_reuse}
        preemption.begin()
        try:
            in_slot = msgspec.structs.replace(request, fields=request.fields | own)
            if request.prompt is None:
                response = await upstream.open_chat(in_slot, limit, response_type)
            else:
                response = await upstream.open(in_slot, limit)
        except BaseException:
            preemption.end()
            # It is not known whether the slot has begun to read the prompt, so no account may reuse what it holds.
            if slot is not None:
                table.give_back(slot, NO_ACCOUNT, b"")
            raise

        def on_close() -> None:
            if slot is not None:
                table.give_back(slot, account_id, prompt)
            self.concurrency.release(account_id)

        response.on_close = on_close
        response.on_first_bytes = preemption.end
        return response

    # ── counting tokens ───────────────────────────────────────────────────────────────────────────────────

    async def count_messages(self, request: ChatRequest) -> int | None:
        return await self.count_prompt(request)

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """Return the exact count, with the model's own template and tokenizer."""
        if request.prompt is not None:
            return await self._count(first_prompt(request.prompt))
        if self._writes_grammars and needs_grammar(request):
            tools_in_text = read_tools(request.fields)
            chat_grammar(request.fields, tools_in_text)
            request = as_plain_chat(request, tools_in_text, None)
        tools = {key: request.fields[key] for key in ("tools", "tool_choice") if request.fields.get(key)}
        counted = await self._post("/v1/chat/completions/input_tokens", {"messages": request.messages, **tools})
        return int(counted["input_tokens"])

    async def _count(self, text: str | list[int]) -> int:
        if isinstance(text, list):
            return len(text)
        tokens = await self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return len(tokens["tokens"])

    async def _post(self, path: str, body: dict[str, Any], *, timeout_s: float = 30.0) -> Any:
        if not self._ready.is_set():
            await self._wait_until_ready()
        async with self._counting:
            return await self._request("POST", path, msgspec.json.encode(body), timeout_s)

    async def _ask(self, path: str, body: dict[str, Any], *, timeout_s: float = 30.0) -> Any:
        """Ask the model in a slot that no account may reuse afterwards. The caller is one of at most `slots`."""
        slot = self._slot_table.take(NO_ACCOUNT, b"")
        own = {} if slot is None else {"id_slot": slot.number}
        try:
            return await self._request("POST", path, msgspec.json.encode(body | own), timeout_s)
        finally:
            if slot is not None:
                self._slot_table.give_back(slot, NO_ACCOUNT, b"")

    async def _request(self, method: str, path: str, body: bytes, timeout_s: float = 30.0) -> Any:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            response = await self._client.request(
                method, self._address + path, headers=headers, body=body, read_timeout_s=timeout_s, may_repeat=True
            )
            try:
                raw = await response.read()
            finally:
                response.close()
        except HttpError as error:
            raise EngineError(f"{self.label} did not respond; retry in a moment") from error
        if response.status != 200:
            raise upstream_failure(response.status, None, raw, self.label)
        return msgspec.json.decode(raw)

    # ── memory ────────────────────────────────────────────────────────────────────────────────────────────────

    def sizes(self, *, is_free: bool = False) -> Sizes:
        """Return slots, context and memory of the child on this machine. `is_free`: in the memory that is free now."""
        shape = None if self._entry.embeds else read_shape(Path(self._path), self._mmproj)
        return size_model(
            shape,
            slots=self._slots,
            context=self._fixed_context or self._entry.context,
            is_fixed=self._fixed_context > 0,
            most=self._fetched.memory_mb * 1_000_000 if self._fetched is not None else None,
            usable=self._usable(is_free=is_free),
        )

    def _usable(self, *, is_free: bool) -> int:
        memory = self._memory()
        usable = memory.total - OTHER_BYTES
        return (min(usable, memory.available - SPARE_BYTES) if is_free else usable) // self._processes

    def _why_too_large(self) -> str | None:
        """Return why this machine cannot run a fetched model beside the server. Other models are always tried."""
        if not self._entry.fetched or self._fetched is None:
            return None
        needed, usable = self.sizes().memory, self._usable(is_free=False)
        if needed <= usable:
            return None
        return (
            f"{self._fetched.title} and the server need {(needed + OTHER_BYTES) / 1e9:.1f} GB of memory, "
            f"this machine has {(usable + OTHER_BYTES) / 1e9:.1f} GB"
        )

    def _choose_sizes(self) -> None:
        """Choose slots and context by the free memory, before the first start. Raises EngineError."""
        sizes, usable = self.sizes(is_free=True), self._usable(is_free=True)
        if sizes.memory > usable:
            lack = f"needs {sizes.memory / 1e9:.1f} GB of memory, but {max(0, usable) / 1e9:.1f} GB are free"
            if self._entry.fetched:
                raise EngineError(f"{self.name} {lack}")
            log.warning("%s %s; starting it anyway", self.name, lack)
        self._is_sized, self._context = True, sizes.context
        self._settings |= {"slots": sizes.slots, "context": sizes.context}
        self.concurrency.resize(sizes.slots)
        log.info("%s: %s", self.name, sizes.describe())

    # ── the child process ─────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start the child and wait until it has loaded the model. Raises EngineError."""
        if self.why_not_ready() is not None or self._supervisor is not None:
            return
        try:
            await super().start()
        except EngineError as error:
            self._fault = error.message
            raise

    async def start_when_fetched(self) -> None:
        """Wait until the model's file is fetched, start it, and only then serve. Do nothing if it was here before."""
        if self._fetched is None or not self._was_missing:
            self._log_too_large()
            return
        if self._supervisor is not None or self._starting is not None:
            return
        self._must_be_up = True
        while not Path(self._path).is_file():  # noqa: ASYNC240 - it never blocks for long
            await asyncio.sleep(LOOK_EVERY_S)
        self._must_be_up = False
        if self.why_not_ready() is not None:
            self._log_too_large()
            return
        self._must_be_up = True
        try:
            await super().start()
        except EngineError as error:
            self._fault = error.message
            log.error("%s was fetched but failed to start: %s", self.name, error)
            return
        self._must_be_up = False
        log.warning("%s is here and answers from now on: %s", self.name, self._fetched.title)

    def _log_too_large(self) -> None:
        if self._too_large is not None:
            log.warning("%s is here but not used: %s", self.name, self._too_large)

    async def _start_once(self) -> None:
        if not self._is_sized:
            self._choose_sizes()
        self._key = random_text(32)
        settings = {**self._settings, "path": self._path, "model": self._served_model, "key": self._key}
        self._process, self._address = await self._spawn_with_vision(settings) or await self._spawn_text_only(settings)
        entry = EngineEntry("upstream", base_url=self._address + "/v1", forwards=tuple(self.forwards))
        # The child bills nothing, so a request on a connection that was just closed may be repeated.
        self._upstream = UpstreamEngine(self.name, entry, self._client, key=self._key, may_repeat=True)
        # A file of the operator's may need the format of its own template, with reasoning and the like.
        self._writes_grammars = self._fetched is not None or not await self._template_supports_tools()
        self._slot_table = SlotTable(self._settings["slots"])
        self.is_up = True
        self._ready.set()

    async def _wait_for_exit(self, process: Process) -> None:
        await process.wait()
        self.is_up = False
        self._ready.clear()

    async def _wait_until_ready(self) -> None:
        try:
            # Not `asyncio.wait_for`: on Python 3.11 it loses a cancellation that arrives together with the result.
            async with asyncio.timeout(LONGEST_RESTART_S):
                await self._ready.wait()
        except TimeoutError:
            raise EngineError(f"{self.label} is restarting; retry in a moment", retry_after_s=5) from None

    async def _spawn_with_vision(self, settings: dict[str, Any]) -> tuple[Process, str] | None:
        """Spawn a child with the vision projector. Return None if there is none, or if it is unusable."""
        if not self._mmproj:
            return None
        self._vision_fault = why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")
        if self._vision_fault is None:
            try:
                return await spawn({**settings, "mmproj": self._mmproj})
            except EngineError as error:
                self._vision_fault = (
                    f"llama.cpp could not load {self._mmproj} as the vision projector of {self._path} "
                    f"({error.message}): MINITOOLAI_LLAMA_MMPROJ must name the file that was made for this model"
                )
        log.error("%s serves text but no images: %s", self.name, self._vision_fault)
        return None

    async def _spawn_text_only(self, settings: dict[str, Any]) -> tuple[Process, str]:
        try:
            return await spawn(settings)
        except EngineError as error:
            raise EngineError(
                f"{self.name}: llama.cpp could not load {self._path} ({error.message}); is it a supported GGUF file?"
            ) from error

    async def _template_supports_tools(self) -> bool:
        """Return True if the model's chat template has a place for tools."""
        abilities = (await self._request("GET", "/props", b"")).get("chat_template_caps") or {}
        return bool(abilities.get("supports_tools"))


def why_no_gguf(path: str, variable: str) -> str | None:
    """Return None if the file starts like a GGUF file, else the mistake in the setting."""
    try:
        with Path(path).open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        return f"no file {path} ({error.strerror}): {variable} must name a GGUF file"
    return None if is_gguf else f"{path} is not a GGUF file: {variable} must name one"


# ── starting llama.cpp ────────────────────────────────────────────────────────────────────────────────────────

START_TIMEOUT_S = 120.0
_MAX_REASON_LENGTH = 300
_ERROR_LINE = re.compile(r"^[\d.]+ E [^:]*: (?:error: )?(.+)$", re.MULTILINE)


async def spawn(settings: dict[str, Any]) -> tuple[Process, str]:
    """Return the child and its address once it has loaded its files. Raises EngineError with llama.cpp's message."""
    command = [sys.executable, "-m", "minitoolai.engines.chat.llama.server"]
    with tempfile.TemporaryFile() as output:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=output, env=child_environment()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await child.stdout.readline()
        except BaseException as error:
            child.kill()
            if not isinstance(error, TimeoutError):
                raise
            line = b""
        if line.startswith(b"http"):
            return child, line.decode().strip()
        await child.wait()
        raise EngineError(_error_lines(output) or f"it did not start within {START_TIMEOUT_S:g} s")


def _error_lines(output: IO[bytes]) -> str:
    output.seek(0)
    text = output.read().decode(errors="replace")
    lines = list(dict.fromkeys(_ERROR_LINE.findall(text))) or text.strip().splitlines()[-1:]
    return "; ".join(lines)[:_MAX_REASON_LENGTH]


# ── which request fields llama.cpp honours; others are refused rather than ignored ────────────────────────────

#: Fields of a chat that it honours, or that need no support of the engine.
CHAT_FIELDS = frozenset(
    """messages model stream stream_options temperature top_p seed stop n logprobs top_logprobs
    presence_penalty frequency_penalty logit_bias response_format tools tool_choice
    parallel_tool_calls user metadata safety_identifier prompt_cache_key prompt_cache_retention store
    service_tier""".split()  # noqa: SIM905
)
#: The same for text completions and for embeddings.
COMPLETION_FIELDS = CHAT_FIELDS - {
    "messages", "response_format", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs",
}  # fmt: skip
EMBEDDING_FIELDS = frozenset(("dimensions", "encoding_format", "user"))
#: Fields that are accepted only with a value that has no effect.
NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
}


def unsupported_field(request: ChatRequest) -> str | None:
    """Return the first field that cannot be honoured."""
    supported = EMBEDDING_FIELDS if request.embed is not None else CHAT_FIELDS
    if request.prompt is not None and request.embed is None:
        supported = COMPLETION_FIELDS
    for field, value in request.fields.items():
        if field in NEUTRAL_VALUES:
            # With n > 1, llama.cpp reports the tokens of one choice only, so there would be no exact charge.
            if value not in NEUTRAL_VALUES[field]:
                return field
        elif field not in supported and value is not None:
            return field
    if isinstance(request.prompt, list) and not _is_single_prompt(request.prompt):
        return "prompt"
    return None


def _is_single_prompt(prompt: list[object]) -> bool:
    """Return True for one prompt; of several, llama.cpp responds to the first only."""
    return len(prompt) == 1 or all(isinstance(token, int) for token in prompt)
