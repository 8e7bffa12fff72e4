"""A process that sends chats at a fixed rate: python -S steady_load.py PORT KEY RATE SECONDS MODEL

Prints the seconds that each request took, sorted, as JSON. The time by which a thread is late counts as well. Imports
nothing of the project, so that it starts at once.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time

THREADS = 16


def steady_times_s(port: int, key: str, rate: int, seconds: float, model: str) -> list[float]:
    """Send `rate` requests a second for this long, in a process of its own. Return how long each took, sorted."""
    command = [sys.executable, "-S", __file__, str(port), key, str(rate), str(seconds), model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=True)
    times: list[float] = json.loads(done.stdout)
    return times


def main() -> None:
    """Send all requests, and print their times."""
    port, key, model = int(sys.argv[1]), sys.argv[2], sys.argv[5]
    rate, seconds = int(sys.argv[3]), float(sys.argv[4])
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": model, "messages": messages, "max_completion_tokens": 4})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    times: list[float] = []

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        begin = time.monotonic() + number / rate
        for turn in range(int(rate * seconds / THREADS)):
            due = begin + turn * THREADS / rate
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            times.append(time.monotonic() - due)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps(sorted(times)))


if __name__ == "__main__":
    main()
