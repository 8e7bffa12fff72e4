"""Chat beside usage reports, exports, images and speech, on our server only: all of it on one core.

Eight chats stream without a pause. Beside them, two clients of an account with 100,000 movements request one other kind
of work after the other. The figure is the wait for the first token of a chat.
"""

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.support.history import seed_history

from bench.gateways import Gateway, Place, Running
from bench.measure import Lab, Plan, Say, lab_of, load, warm_up
from bench.ours import Ours
from bench.report import markdown, number
from minitoolai.accounts.users import SESSION_MS, digest
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.storage.opening import open_database
from minitoolai.storage.tables import users

CHATS, CLIENTS = 8, 2
MOVEMENTS = 100_000
#: How long the server rests before the first round.
SETTLE_S = 5.0
_BUSY, _SESSION = "busy@example.com", "session-of-the-bench"
_SPEECH = '{"model": "tts-1", "voice": "heart", "input": "Good morning. The rivers are high today."}'
_IMAGE = '{"model": "realvision", "prompt": "a red apple", "size": "512x512"}'
#: What is requested beside the chats: method, path and body.
WORK = {
    "usage reports": ("GET", "/api/usage/?group_by=model", ""),
    "exports of 100,000 lines": ("GET", "/en/balance/statement.csv", ""),
    "images": ("POST", "/v1/images/generations", _IMAGE),
    "speech": ("POST", "/v1/audio/speech", _SPEECH),
}
#: Requests the same again and again, and prints how often it succeeded and failed.
_CLIENT = """
import http.client, sys, time
port, key, cookie, until_s, method, path, body = int(sys.argv[1]), *sys.argv[2:4], float(sys.argv[4]), *sys.argv[5:]
headers = {"authorization": "Bearer " + key, "content-type": "application/json"}
if path.startswith("/en/"):
    headers = {"cookie": "session=" + cookie}
done, failed, until = 0, 0, time.monotonic() + until_s
while time.monotonic() < until:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=body or None, headers=headers)
    response = connection.getresponse()
    said = response.read()
    done, failed = done + (response.status == 200), failed + (response.status != 200)
    if response.status != 200:
        time.sleep(0.05)
        sys.stderr.write(f"{path}: {response.status} {said[:200]!r}\\n")
    connection.close()
print(done, failed)
"""


class OursWithHistory(Ours):
    """MiniToolAI with a second account that has a long history and a session of the portal."""

    name, title = "minitoolai-mixed", "MiniToolAI"
    movements = MOVEMENTS

    def environment(self, place: Place) -> dict[str, str]:
        self._folder = place.folder
        # The embedded engines draw and speak although an upstream is configured.
        return super().environment(place) | {"MINITOOLAI_STAND_INS": "sell"}

    def prepare(self) -> None:
        self._run("account", "create", _BUSY, "--credit", "1000.00")
        now_ms = SystemClock().now_ms()
        url = f"sqlite:///{self._folder / 'data' / 'minitoolai.db'}"
        with closing(open_database(url, serving=False)) as database, closing(database.connect()) as connection:
            account = users.find_user(connection, _BUSY)[0].account_id
            since_ms = now_ms - 30 * MS_PER_DAY
            seed_history(connection, account, self.movements, first_ms=since_ms, until_ms=now_ms)
            with connection.transaction():
                users.insert_session(connection, digest(_SESSION), account, now_ms, now_ms + SESSION_MS)
        self.busy_key = self._run("key", "create", _BUSY).strip()


def run(gateways: list[Gateway], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Measure chats alone, beside each kind of work and beside all of it, in rounds. Only ours takes part."""
    ours = OursWithHistory()
    with lab_of([ours], plan, say) as lab:
        if not lab.up:
            return [{"beside": "missing", "why": lab.rows[0].missing}]
        ((_, row, running),) = lab.up
        warm_up(row, running, lab.plan)
        kinds = {"nothing": [], **{name: [work] for name, work in WORK.items()}, "all of these": list(WORK.values())}
        # Engines are loaded by the first requests, and the days of the history are summed up after the start.
        _stop(_clients(lab, running, ours.busy_key, kinds["all of these"], seconds=1.0))
        time.sleep(SETTLE_S)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
        for number_of_round in range(plan.rounds):
            for name, work in kinds.items():
                say(f"round {number_of_round + 1} of {plan.rounds}: chats beside {name}")
                clients = _clients(lab, running, ours.busy_key, work, seconds=plan.seconds)
                sample = load(row, running, lab.plan, callers=CHATS, stream=True)
                done, failed, complaint = _stop(clients)
                counts = {"work": done, "work_failed": failed, "complaint": complaint}
                found[name].append(asdict(sample) | counts)
        return [{"beside": name, "samples": samples} for name, samples in found.items()]


def _clients(lab: Lab, running: Running, key: str, work: list[tuple[str, str, str]], *, seconds: float) -> list[Any]:
    cores = lab.plan.load_cores
    pin = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
    command = [*pin, "nice", "-n", "5", sys.executable, "-S", "-c", _CLIENT, str(running.port), key, _SESSION]
    return [
        subprocess.Popen([*command, str(seconds), *one], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for one in work
        for _ in range(CLIENTS)
    ]


def _stop(clients: list[Any]) -> tuple[int, int, str]:
    """Wait for the clients. Return how many requests succeeded and failed, and the first complaint."""
    done, failed, complaint = 0, 0, ""
    for process in clients:
        out, err = process.communicate(timeout=120)
        counts = [int(word) for word in out.split()] or [0, 1]
        done, failed = done + counts[0], failed + counts[1]
        complaint = complaint or err.strip().split("\n")[-1][:300]
    return done, failed, complaint


def table(found: list[dict[str, Any]]) -> str:
    """Return the table: the first token of a chat beside other work."""
    heads = ["chats beside", "first token, ms: median", "p99", "requests/s of the other work", "of which failed"]
    lines = []
    for one in found:
        samples = one.get("samples") or []
        first, tail = (number(_median(samples, name), 1) for name in ("first_median_ms", "first_p99_ms"))
        rates = [sample["work"] / sample["seconds"] for sample in samples]
        rate = f"{median(rates):,.1f}" if any(rates) else "–"
        lines.append([one["beside"], first, tail, rate, str(sum(sample["work_failed"] for sample in samples))])
    return markdown(heads, lines)


def _median(samples: list[dict[str, Any]], name: str) -> float | None:
    values = [sample[name] for sample in samples if sample[name] is not None]
    return median(values) if values else None
