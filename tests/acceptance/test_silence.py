"""A keep-alive comment is sent after fifteen seconds of silence, never sooner, so that proxies keep the connection."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support import manners
from tests.support.ask import events, said, start
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Exchange, Upstream

#: How long the upstream is silent. The exact time of a comment is tested in tests/chat/test_run.py; here, it only comes
#: before the next event, also on a busy machine.
SILENT_S = 19.0


def timed_lines(account: Account) -> list[tuple[float, str]]:
    """Return each line with its time in seconds."""
    started_s = time.monotonic()
    with start(account, model="billing") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [(time.monotonic() - started_s, line) for line in answer.iter_lines(chunk_size=1, decode_unicode=True)]


def test_a_comment_is_sent_after_fifteen_seconds_of_silence(proxy_server: ServerProcess, upstream: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        is_early = exchange.body["user"] == "early" if "user" in exchange.body else len(upstream.seen) == 1
        if is_early:
            exchange.begin()
            exchange.event(manners.chunk({"content": "before "}))
        await asyncio.sleep(SILENT_S)
        if not is_early:
            exchange.begin()
        exchange.event(manners.chunk({"content": "after"}, finish="stop"))
        exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(2)})
        exchange.event("[DONE]")
        exchange.end()

    upstream.behave = behave
    account = proxy_server.account()
    with ThreadPoolExecutor() as pool:
        silent_in_the_middle = pool.submit(timed_lines, account)
        time.sleep(0.5)
        silent_from_the_start = pool.submit(timed_lines, account)
        found = [silent_in_the_middle.result(), silent_from_the_start.result()]
    for lines, words in zip(found, ["before after", "after"], strict=True):
        comments = [at_s for at_s, line in lines if line.startswith(":")]
        assert len(comments) == 1
        assert 15 <= comments[0] < SILENT_S
        text = "\n".join(line for _, line in lines) + "\n"
        assert said(events(text)) == words
        assert events(text)[-1] == "[DONE]"
    assert account.settled() == 5_000_000_000 - 2 * (manners.PROMPT_TOKENS * 150 + 2 * 600)
