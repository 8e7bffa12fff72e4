"""The child process of image engines: receives commands on standard input, sends events on standard output.

Run as `python -m minitoolai.engines.images.child`. Images with the same batch key share model calls (continuous
batching). Commands are handled between two calls, so that images join and leave while others are in progress.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

import msgspec

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.child_process import enter_child, read_frame, to_frame
from minitoolai.engines.protocols import Batch, BatchEngine, FailedImage, ImageRequest

#: Chats have priority: an image takes seconds, a token milliseconds.
NICENESS = 10
HEARTBEAT_S = 1.0


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────


class LoadEngine(msgspec.Struct, frozen=True, tag="load"):
    """The first command: create the engine of this module from plain data."""

    module: str
    config: dict[str, Any]


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Begin an image of a model of the catalog, in the batch of this key."""

    id: int
    model: str
    key: str
    request: ImageRequest


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Drop an image that is no longer wanted."""

    id: int


Command = LoadEngine | Add | Remove


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Reply to LoadEngine: ready, or why not."""

    error: str | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The process is alive and has completed `calls` model calls."""

    calls: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """An image has completed a step."""

    id: int
    step: int
    steps: int


class Generated(msgspec.Struct, frozen=True, tag="generated"):
    """An image is finished."""

    id: int
    png: bytes
    model: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An image has failed. `refused`: the request caused it."""

    id: int
    error: str
    refused: bool = False


Event = Loaded | Heartbeat | Progress | Generated | Failed
Send = Callable[[Event], None]


class BatchLoop:
    """The batches in progress. Runs one model call at a time, batch by batch."""

    def __init__(self, engine: BatchEngine, send: Send) -> None:
        self._engine = engine
        self._send = send
        self._batches: dict[str, Batch] = {}
        #: The images of each batch, by slot ID.
        self._images: dict[str, dict[int, Add]] = {}
        #: Images of a batch that broke: restarted one at a time, until the one at fault is found.
        self._suspects: deque[Add] = deque()
        self.calls = 0

    def __len__(self) -> int:
        return sum(map(len, self._images.values())) + len(self._suspects)

    def handle(self, command: Command) -> None:
        """Add or remove an image. An image that cannot begin fails alone."""
        if isinstance(command, Add):
            self._add(command, command.key)
        elif isinstance(command, Remove):
            self._suspects = deque(suspect for suspect in self._suspects if suspect.id != command.id)
            for key, images in list(self._images.items()):
                for slot_id in [slot_id for slot_id, image in images.items() if image.id == command.id]:
                    self._batches[key].remove(slot_id)
                    self._forget(key, slot_id)

    def step(self) -> None:
        """Run one model call for each batch."""
        for key in list(self._batches):
            try:
                finished = self._batches[key].step()
            except Exception as error:  # noqa: BLE001 - any exception of an engine becomes an event
                self._retry_individually(key, error)
                continue
            finally:
                self.calls += 1
            for image in finished:
                command = self._images[key][image.slot_id]
                self._forget(key, image.slot_id)
                if isinstance(image, FailedImage):
                    self._send(Failed(command.id, image.error, image.refused))
                else:
                    self._send(Generated(command.id, image.png, image.model))
        if self._suspects and _SUSPECT_KEY not in self._batches:
            self._add(self._suspects.popleft(), _SUSPECT_KEY)

    def _add(self, command: Add, key: str) -> None:
        def on_progress(step: int, steps: int) -> None:
            self._send(Progress(command.id, step, steps))

        try:
            if key not in self._batches:
                self._batches[key] = self._engine.open(command.model)
                self._images[key] = {}
            slot_id = self._batches[key].add(command.request, on_progress)
        except Exception as error:  # noqa: BLE001 - as above
            if not self._images.get(key):
                self._drop(key)
            refused = isinstance(error, EngineRefused | ValueError)
            self._send(Failed(command.id, describe_error(error), refused))
        else:
            self._images[key][slot_id] = command

    def _retry_individually(self, key: str, error: Exception) -> None:
        """Handle a batch that broke: restart each of several images alone, fail a single one."""
        images = list(self._images[key].values())
        self._drop(key)
        if len(images) > 1:
            self._suspects.extend(images)
        else:
            self._send(Failed(images[0].id, describe_error(error), refused=isinstance(error, EngineRefused)))

    def _forget(self, key: str, slot_id: int) -> None:
        del self._images[key][slot_id]
        if not self._images[key]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._batches.pop(key, None)
        self._images.pop(key, None)


#: The batch of a suspect. No batch key of an engine is empty.
_SUSPECT_KEY = ""


def describe_error(error: Exception) -> str:
    """Return an error's type and message, shortened; of one that is for the caller, the message only."""
    if isinstance(error, EngineRefused):
        return error.message[:300]
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__


def main() -> None:
    """Handle commands until standard input ends."""
    out = enter_child(NICENESS)
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            out.write(to_frame(event))
            out.flush()

    commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(sys.stdin.buffer, commands), daemon=True).start()
    first = commands.get()
    assert isinstance(first, LoadEngine), "the first command must be LoadEngine"
    loops: list[BatchLoop] = []
    # Start before loading, which may take long.
    threading.Thread(target=_send_heartbeats, args=(loops, send), daemon=True).start()
    try:
        engine: BatchEngine = import_module(first.module).make_batch_engine(first.config)
        engine.start()
    except Exception as error:  # noqa: BLE001 - the parent reports the error
        send(Loaded(describe_error(error)))
        os._exit(1)
    loops.append(BatchLoop(engine, send))
    send(Loaded())
    _run(loops[0], commands)


def _run(loop: BatchLoop, commands: queue.SimpleQueue[Command | None]) -> None:
    while True:
        while len(loop) == 0 or not commands.empty():
            command = commands.get()
            if command is None:
                # There is nothing to save, so do not wait for the threads of libraries.
                os._exit(0)
            loop.handle(command)
        loop.step()


def _read_commands(stream: IO[bytes], commands: queue.SimpleQueue[Command | None]) -> None:
    decode = msgspec.msgpack.Decoder(Command).decode
    while (frame := read_frame(stream)) is not None:
        commands.put(decode(frame))
    commands.put(None)


def _send_heartbeats(loops: list[BatchLoop], send: Send) -> None:
    while True:
        send(Heartbeat(loops[0].calls if loops else 0))
        time.sleep(HEARTBEAT_S)


if __name__ == "__main__":
    main()
