"""Tests of LoRA tags in submitted prompts: what each kind of engine accepts, and that other tags hold nothing."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from minitoolai.core.errors import ContentRefused, InvalidRequest
from minitoolai.core.models import Balance
from minitoolai.images.moderation import DefaultPolicy
from tests.support.books import TemporaryBooks
from tests.support.studio import PRICE, Studio

TAGGED = "a red apple <lora:pencil:0.8>"


@pytest.mark.parametrize(
    ("loras", "prompt", "negative", "param", "words"),
    [
        (("oil", "pencil"), "<lora:pencl:1>", "", "prompt", "there is no LoRA 'pencl'; the nearest is pencil"),
        (("oil", "pencil"), "<lora:xyzzy:1>", "", "prompt", "on offer are oil, pencil"),
        (("oil",), "<lora:oil:x>", "", "prompt", "cannot be read"),
        (("oil",), "a", "<lora:oil:1>", "negativePrompt", "move it to prompt"),
        ((), TAGGED, "", "prompt", "first offers none; remove the tag"),
        ((), "a", "<lora:pencil:1>", "negativePrompt", "move it to prompt"),
    ],
)
def test_a_tag_that_the_engine_cannot_honour_is_refused_and_holds_nothing(
    books: TemporaryBooks,
    tmp_path: Path,
    loras: Collection[str],
    prompt: str,
    negative: str,
    param: str,
    words: str,
) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.loras = loras
        account = books.account(PRICE)
        with pytest.raises(InvalidRequest) as refusal:
            await studio.submit(account, prompt=prompt, negative_prompt=negative)
        assert refusal.value.param == param
        assert words in refusal.value.message
        assert books.money(account) == Balance(PRICE, 0)
        assert books.rows("SELECT count(*) FROM generations") == [(0,)]

    Studio(books, tmp_path).run(test, with_worker=False)


@pytest.mark.parametrize("loras", [("pencil",), None], ids=["known", "the engine reads tags"])
def test_the_engine_receives_the_tag(books: TemporaryBooks, tmp_path: Path, loras: Collection[str] | None) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.loras = loras
        job = await studio.end(await studio.submit(books.account(PRICE), prompt=TAGGED))
        assert job.state == "succeeded"
        assert studio.engine.begun == [("first", TAGGED)]

    Studio(books, tmp_path).run(test)


def test_a_tag_does_not_hide_a_word_from_the_policy(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.loras = ("pencil",)
        studio.service._policy = DefaultPolicy()
        account = books.account(PRICE)
        for prompt in ("a nude child", "a nude chi<lora:pencil:0>ld", "a nu<lora:pencil:0>de chi<lora:pencil:0>ld"):
            with pytest.raises(ContentRefused):
                await studio.submit(account, prompt=prompt)
        await studio.submit(account, prompt=TAGGED)

    Studio(books, tmp_path).run(test, with_worker=False)
