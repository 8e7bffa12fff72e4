"""A moderation upstream as a policy on prompts: any server with OpenAI's `/moderations`."""

from __future__ import annotations

import logging

import msgspec

from minitoolai.core.errors import ContentRefused, EngineError, EngineTimeout
from minitoolai.httpclient.client import HttpClient, HttpError

log = logging.getLogger(__name__)
LONGEST_SILENCE_S = 10.0
_LARGEST_ANSWER = 256 * 1024


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


class ModerationPolicy:
    """Asks for every prompt. Where the server cannot be asked, nothing is drawn: silence is no consent."""

    def __init__(self, client: HttpClient, *, base_url: str, key: str, model: str) -> None:
        """`base_url` up to and including /v1."""
        self._client = client
        self._url = base_url.rstrip("/") + "/moderations"
        self._model = model
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    async def check(self, prompt: str, _: str) -> None:
        """ContentRefused with the categories that were flagged; EngineError, EngineTimeout."""
        for result in (await self._ask(prompt)).results:
            if result.flagged:
                named = ", ".join(sorted(name for name, is_flagged in result.categories.items() if is_flagged))
                raise ContentRefused(
                    f"prompt: refused by moderation ({named or 'flagged'}); nothing was charged", param="prompt"
                )

    async def _ask(self, prompt: str) -> _Answer:
        body: dict[str, str] = {"input": prompt}
        if self._model:
            body["model"] = self._model
        try:
            answer = await self._client.request(
                "POST",
                self._url,
                headers=self._headers,
                body=msgspec.json.encode(body),
                silence_s=LONGEST_SILENCE_S,
                # It reads and forgets: asking twice costs nobody anything.
                may_repeat=True,
            )
            try:
                data = await answer.read(_LARGEST_ANSWER)
            finally:
                answer.close()
        except HttpError as error:
            log.error("the moderation server at %s could not be asked: %s", self._url, error)
            raise EngineTimeout("the moderation of prompts does not answer; nothing was charged") from error
        if answer.status != 200:
            # Not what it said: that might repeat the prompt.
            log.error("the moderation server at %s answered %d", self._url, answer.status)
            raise EngineError("the moderation of prompts failed; nothing was charged")
        try:
            decoded = msgspec.json.decode(data, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EngineError("the moderation of prompts gave no usable answer; nothing was charged") from error
        if not decoded.results:
            raise EngineError("the moderation of prompts gave no result; nothing was charged")
        return decoded
