"""In which form a chat is asked for and answered: our own, OpenAI's, or one that is translated from and to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from minitoolai.chat.request import Dialect, parse_chat
from minitoolai.chat.run import ChatRun
from minitoolai.core.errors import ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.streaming import Run


class Speaker(Run, Protocol):
    """A chat under way, as its caller hears it."""

    async def read_whole(self) -> bytes:
        """The answer that is not streamed."""


class Form(Protocol):
    """How bodies are read and answers are told."""

    def parse(self, body: bytes) -> ChatRequest:
        """The checked request; InvalidRequest names the field."""

    def speaker(self, run: ChatRun) -> Speaker:
        """Who tells the caller of this run."""

    def retold(self, error: ServiceError) -> ServiceError:
        """The error in the words of this form."""

    def last_words(self, speaker: Speaker, error: ServiceError) -> bytes:
        """What ends a stream that failed after it began."""


class ChatForm:
    """Chats as they are: nothing is translated."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect = dialect

    def parse(self, body: bytes) -> ChatRequest:
        return parse_chat(body, self._dialect)

    def speaker(self, run: ChatRun) -> Speaker:
        return run

    def retold(self, error: ServiceError) -> ServiceError:
        return error

    def last_words(self, speaker: Speaker, error: ServiceError) -> bytes:
        return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


class Translator(Protocol):
    """Chat's events into another form's."""

    def events(self, block: bytes) -> bytes:
        """Whole events of a chat, retold; may be nothing."""

    def ending(self, block: bytes) -> bytes:
        """The usage and the end, retold."""

    def whole(self, body: bytes) -> bytes:
        """A whole completion, retold."""


class TranslatedRun:
    """A chat under way that is told in another form. Money and time stay with the run inside."""

    def __init__(self, run: ChatRun, translator: Translator) -> None:
        self._run = run
        self.translator = translator
        self.name = run.name

    @property
    def task(self) -> asyncio.Task[object] | None:
        """Set while somebody may break the answer off by cancelling it."""
        return self._run.task

    @task.setter
    def task(self, task: asyncio.Task[object] | None) -> None:
        self._run.task = task

    @property
    def stop_reason(self) -> ServiceError | None:
        """Why it was broken off, if it was."""
        return self._run.stop_reason

    @stop_reason.setter
    def stop_reason(self, reason: ServiceError | None) -> None:
        self._run.stop_reason = reason

    async def open(self) -> None:
        await self._run.open()

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        def retell(block: bytes) -> Awaitable[None] | None:
            events = self.translator.events(block)
            return write(events) if events else None

        await self._run.flow(retell)

    async def read_whole(self) -> bytes:
        return self.translator.whole(await self._run.read_whole())

    def ending(self) -> bytes:
        return self.translator.ending(self._run.ending())

    async def charge(self, *, within_s: float) -> None:
        await self._run.charge(within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        self._run.finish(error)

    async def close(self, error: ServiceError | None = None) -> None:
        await self._run.close(error)

    def stop(self, reason: ServiceError) -> None:
        self._run.stop(reason)
