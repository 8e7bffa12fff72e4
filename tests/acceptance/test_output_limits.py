"""A real llama.cpp as an upstream never generates more than was held, whatever a request asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.support import catalogs
from tests.support.server import Account, ServerProcess
from tests.support.small_model import small_model_file

pytestmark = pytest.mark.acceptance

KEY, MODEL = "a-key-of-this-test", "tiny"
LIMIT, MORE = 6, 40
#: A prompt that the model answers at length.
ASKED = [{"role": "user", "content": "Write a long story about the sea."}]
FIELDS: list[dict[str, Any]] = [
    *(
        {name: MORE}
        for name in ("n_predict", "max_new_tokens", "max_length", "min_tokens", "num_predict", "max_tokens_")
    ),
    *({name: 3} for name in ("best_of", "n", "n_cmpl", "N")),
    {"ignore_eos": True},
    {"n_predict": -1, "ignore_eos": True},
    {"n_predict": MORE, "n": 2},
    {"Max_Tokens": MORE, "MAX_COMPLETION_TOKENS": MORE, "maxOutputTokens": MORE},
    {"max_completion_tokens": None, "n_predict": MORE},
    {"max_completion_tokens": LIMIT, "n_predict": MORE},
    {"options": {"num_predict": MORE}, "extra_body": {"n_predict": MORE}, "nvext": {"ignore_eos": True}},
    {"generationConfig": {"maxOutputTokens": MORE, "candidateCount": 3}, "vllm_xargs": {"max_tokens": MORE}},
    {"stream_options": {"include_usage": True, "n_predict": MORE}},
    {"logit_bias": [], "response_format": {"type": "text", "n_predict": MORE}},
]


@dataclass(frozen=True)
class Llama:
    """llama.cpp, and a server that has it as its only upstream."""

    address: str
    account: Account


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    settings = {"path": str(small_model_file()), "model": MODEL, "key": KEY, "slots": 4, "queue": 8, "context": 512}
    settings |= {"threads": 1, "embeds": False, "pooling": ""}
    command = [sys.executable, "-m", "minitoolai.engines.chat.llama.server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(settings) + "\n")
        child.stdin.flush()
        address = child.stdout.readline().strip() + "/v1"
        catalog = catalogs.upstream(MODEL, address, "total_timeout_s = 60.0")
        env = {"MINITOOLAI_TINY_API_KEY": KEY}
        # It ends when its standard input does, at the end of this block.
        with ServerProcess(tmp_path_factory.mktemp("limits"), catalog=catalog, env=env) as server:
            yield Llama(address, server.account("100"))


def tokens_of(answer: requests.Response) -> int:
    """Return the completion tokens that the response reports."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        chunks = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        usage = json.loads(chunks[-1].removeprefix("data: "))["usage"]
    else:
        usage = answer.json()["usage"]
    return int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)


def test_llama_cpp_itself_obeys_another_name_of_the_limit(llama: Llama) -> None:
    """Otherwise the tests below would prove nothing."""
    body = {"model": MODEL, "messages": ASKED, "max_tokens": LIMIT, "n_predict": MORE}
    answer = requests.post(
        f"{llama.address}/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert tokens_of(answer) > LIMIT


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/v1/chat/completions", True),
        ("/v1/chat/completions", False),
        ("/v1/completions", True),
        ("/v1/responses", False),
    ],
)
@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_no_field_makes_it_generate_more_than_is_held(
    llama: Llama, fields: dict[str, Any], path: str, stream: bool
) -> None:
    prompts: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": ASKED, "max_tokens": LIMIT, "stream_options": {"include_usage": True}},
        "/v1/completions": {"prompt": "The sea", "max_tokens": LIMIT},
        "/v1/responses": {"input": "Write a long story about the sea.", "max_output_tokens": LIMIT},
    }
    body = {"model": MODEL, "stream": stream, **prompts[path], **fields}
    if not stream:
        body.pop("stream_options", None)
    account = llama.account
    answer = requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)
    choices = fields.get("n", 1) if path != "/v1/responses" else 1
    assert answer.status_code == 200, answer.text
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["served_model"]) == ("succeeded", MODEL)
    assert 0 < row["output_units"] <= LIMIT * choices
    assert 0 < row["cost"] <= row["hold_amount"]
    assert account.server.transfers_of(answer.headers["x-generation-id"]) == [row["cost"]]


def test_nothing_was_short(llama: Llama) -> None:
    """No charge was cut to its hold."""
    rows = llama.account.server.read(lambda c: c.execute("SELECT count(*), sum(shortfall) FROM holds"))
    assert rows[0][0] >= len(FIELDS)
    assert rows[0][1] == 0
