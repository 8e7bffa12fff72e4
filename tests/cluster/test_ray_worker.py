"""A shop that draws on a Ray cluster: `minitoolai worker --ray`, a lost machine, `doctor` and the metrics."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cluster.ray_proof import PLACED, Figures, Site, disturb, examine, site
from tests.cluster.test_workers import health_url
from tests.support.gallery import PRICE
from tests.support.ray_cluster import RayNode
from tests.support.server import PROGRAM, Account
from tests.support.small_model import small_model_file
from tests.support.waiting import eventually

#: A voice and a language model are placed as well.
SERVERS = f"""
[engines.tone]
kind = "fake"
model = "tone-1"
placement = "ray"

[speech.tone]
price = "15.00"
max_characters = 2000
voice = "tone"
voices = [{{ id = "tone", engine = "tone", language = "*", licence = "none" }}]

[engines.small]
kind = "llama"
model = "small-1"
file = "{small_model_file()}"
context = 512
placement = "ray"

[chat.small]
input = "0.15"
output = "0.60"
context = 512
max_output = 64
engines = ["small"]
"""


def libraries(pid: int) -> str:
    """Return the names of the files that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def shop() -> Iterator[Site]:
    """A shop on a cluster of two machines, each with room for all copies and servers. Each test breaks its own."""
    env = {"MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0", "MINITOOLAI_LLAMA_THREADS": "1"}
    with site(2, PLACED + SERVERS, cpus=5, **env) as opened:
        yield opened


def test_a_lost_machine_fails_no_job_and_a_server_never_loads_ray(shop: Site) -> None:
    account, other = shop.server.account("10"), shop.server.account("10")
    check_servers(shop, other)
    eventually(lambda: placed(shop, "quick") == (3, 3), within_s=60, every_s=0.2)
    assert metrics(shop)['minitoolai_placed_capacity{engine="quick"}'] == 12
    assert (placed(shop, "tone"), placed(shop, "small")) == ((1, 1), (1, 1))
    for n in range(10):
        shop.ask(account, prompt=f"{n}", steps=8)
    # More than two copies take, so each of the three has some.
    eventually(lambda: shop.running() == 10, within_s=60, every_s=0.05)
    # A machine that draws.
    shop.ray.nodes.sort(key=lambda node: "engines.images.child" not in commands(node))
    shop.ray.nodes[0].kill()
    figures = Figures()
    examine(shop, figures)
    check_servers(shop, other)
    assert figures.violations == []
    assert figures.rows == {"jobs lost": "0", "jobs charged twice": "0"}
    again, failures = shop.rows("SELECT sum(attempt - 1), max(failures) FROM generations WHERE kind = 'image'")[0]
    # Drawn again, which is no failure.
    logs = (shop.server.folder / "worker.log").read_text()[-8000:]
    assert (again > 0, failures) == (True, 0), logs
    assert account.settled() == 10_000_000_000 - 10 * PRICE
    assert "_raylet" in libraries(shop.worker.pid)
    assert "_raylet" not in libraries(shop.server.pid)
    said = doctor(shop)
    assert f"ok     Ray: 3 machines, 5 CPUs, 0 GPUs at {shop.ray.address}; a wrong token is refused" in said, said
    assert "FAULT" not in said, said


def commands(node: RayNode) -> str:
    """Return the command lines of all processes of a machine."""
    found = []
    for pid in node.pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            # It has ended meanwhile.
            continue
    return " ".join(found)


def check_servers(shop: Site, account: Account) -> None:
    """Wait until a voice speaks and a language model answers, wherever they are now."""
    speech = {"model": "tone", "input": "hello", "voice": "tone", "response_format": "wav"}
    chat = {"model": "small", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 4}

    def wait_for(path: str, body: dict[str, Any]) -> None:
        def works() -> bool:
            return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=30).ok

        try:
            eventually(works, within_s=60, every_s=0.2)
        except AssertionError as error:
            logs = [(shop.server.folder / name).read_text()[-8000:] for name in ("worker.log", "serve.log")]
            raise AssertionError(f"{path}: {error}; the worker and the server say:\n" + "\n".join(logs)) from error

    wait_for("/v1/audio/speech", speech)
    wait_for("/v1/chat/completions", chat)


def test_no_job_is_lost_or_paid_twice_while_everything_is_killed_once(shop: Site) -> None:
    """The short form of `python -m tests.cluster.ray_proof`."""
    figures, before = Figures(), len(shop.acknowledged)
    disturb(shop, figures, seconds=12, jobs=30, once=True)
    examine(shop, figures)
    check_servers(shop, shop.server.account("10"))
    print(f"{figures.counts} after {figures.events}")
    assert figures.violations == []
    assert figures.rows == {"jobs lost": "0", "jobs charged twice": "0"}
    assert set(figures.events.values()) == {1}
    assert len(figures.events) == 5
    assert figures.counts == {"succeeded": before + 30}


def metrics(shop: Site) -> dict[str, float]:
    """Return the metrics of the worker about what it has placed."""
    text = requests.get(health_url(shop.server.folder / "worker.log") + "/metrics", timeout=10).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("minitoolai_placed"))
    return {name: float(value) for name, value in lines}


def placed(shop: Site, engine: str) -> tuple[float, float]:
    """Return how many copies or servers of an engine are wanted, and how many run."""
    found = metrics(shop)
    name = f'minitoolai_placed_engines{{engine="{engine}",state="%s"}}'
    return found[name % "wanted"], found[name % "running"]


def doctor(shop: Site) -> str:
    """Return what `minitoolai doctor` says of this shop and its cluster."""
    command = [*PROGRAM, "doctor", "--offline", "--ray", shop.ray.address, "--data-dir", str(shop.server.data_dir)]
    done = subprocess.run(
        command, env=shop.server.env | shop.ray.env, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr
