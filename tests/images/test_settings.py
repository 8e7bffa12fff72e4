"""Tests of the image settings: a wrong value stops the start and names the variable."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import PROGRAM, ServerProcess
from tests.support.studio_http import CATALOG, CREDIT, check_image_refusal, submit
from tests.support.upstream import Exchange, Upstream

WRONG = [
    ("PROMPT_POLICY", "defualt", "there are default, moderation"),
    ("PROMPT_POLICY", " , ", "at least one policy"),
    ("PROMPT_POLICY", "default,moderation", "MINITOOLAI_MODERATION_URL"),
    ("OBJECT_STORE", "pictures", "s3://bucket/prefix"),
    ("PUBLIC_URL", "api.example.com", "https://api.example.com"),
    ("IMAGE_RETENTION_DAYS", "-1", "at least 0"),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG, ids=[f"{case[0]}={case[1]}" for case in WRONG])
def test_a_wrong_setting_stops_the_start_and_is_named(tmp_path: Path, name: str, value: str, says: str) -> None:
    server = ServerProcess(tmp_path, catalog=CATALOG, env={f"MINITOOLAI_{name}": value})
    command = [*PROGRAM, "serve", "--port", "0", "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, env=server.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"MINITOOLAI_{name}" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def moderation() -> Iterator[Upstream]:
    async def judge(exchange: Exchange) -> None:
        text = exchange.body["input"]
        if "riot" in text:
            exchange.answer(200, {"results": [{"flagged": True, "categories": {"violence": True}}]})
        elif "broken" in text:
            exchange.answer(500, b"")
        else:
            exchange.answer(200, {"results": [{"flagged": False}]})

    with Upstream(judge) as upstream:
        yield upstream


def test_a_moderation_server_runs_after_the_default_policy(moderation: Upstream, tmp_path: Path) -> None:
    env = {"MINITOOLAI_PROMPT_POLICY": "default,moderation", "MINITOOLAI_MODERATION_URL": moderation.base_url}
    with ServerProcess(tmp_path, catalog=CATALOG, env=env) as server:
        account = server.account()
        check_image_refusal(submit(account, prompt="a riot"), 400, "content_policy", "violence")
        check_image_refusal(submit(account, prompt="a broken vase"), 502, "upstream_error", "nothing was charged")
        requests_seen = len(moderation.seen)
        check_image_refusal(submit(account, prompt="a nude child"), 400, "content_policy", "minors")
        assert len(moderation.seen) == requests_seen
        assert account.money().posted == CREDIT
        assert submit(account).status_code == 200
