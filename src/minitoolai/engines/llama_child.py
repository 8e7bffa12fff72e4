"""Starting llama.cpp in a process of its own, and what it says where it will not start."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import IO, Any

from minitoolai.core.errors import EngineError
from minitoolai.engines.child_process import child_environment

START_TIMEOUT_S = 120.0
#: Where its words are long, their beginning tells.
_WORDS_AT_MOST = 300
_COMPLAINT = re.compile(r"^[\d.]+ E [^:]*: (?:error: )?(.+)$", re.MULTILINE)


async def spawn(settings: dict[str, Any]) -> tuple[Process, str]:
    """The child and its address, once it has loaded its files. EngineError in llama.cpp's words where it does not."""
    command = [sys.executable, "-m", "minitoolai.engines.llama_server"]
    with tempfile.TemporaryFile() as said:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=said, env=child_environment()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        try:
            line = await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT_S)
        except BaseException as error:
            child.kill()
            if not isinstance(error, TimeoutError):
                raise
            line = b""
        if line.startswith(b"http"):
            return child, line.decode().strip()
        await child.wait()
        raise EngineError(_complaint(said) or f"it did not start within {START_TIMEOUT_S:g} s")


def _complaint(said: IO[bytes]) -> str:
    said.seek(0)
    text = said.read().decode(errors="replace")
    words = list(dict.fromkeys(_COMPLAINT.findall(text))) or text.strip().splitlines()[-1:]
    return "; ".join(words)[:_WORDS_AT_MOST]


def why_no_gguf(path: str, variable: str) -> str | None:
    """None where a GGUF file lies there, by its first bytes; else a sentence that names the setting."""
    try:
        with Path(path).open("rb") as file:
            is_one = file.read(4) == b"GGUF"
    except OSError as error:
        return f"no file {path} ({error.strerror}): {variable} must name a GGUF file"
    return None if is_one else f"{path} is not a GGUF file: {variable} must name one"
