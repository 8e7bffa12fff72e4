"""Print an answer as it is written. Needs requests, and MINITOOLAI_URL and MINITOOLAI_KEY in the environment."""

import json
import os

import requests

with requests.post(
    os.environ["MINITOOLAI_URL"] + "/api/chat-completions/",
    headers={"Authorization": "Bearer " + os.environ["MINITOOLAI_KEY"]},
    json={
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "developer", "content": "Answer in one short sentence."},
            {"role": "user", "content": "Which planet has the most moons?"},
        ],
        "temperature": 0.2,
        "max_completion_tokens": 60,
    },
    stream=True,
    timeout=120,
) as answer:
    if answer.status_code != 200:
        raise SystemExit(answer.json()["error"]["message"])
    for line in answer.iter_lines():
        data = line.removeprefix(b"data: ")
        if data in (line, b"[DONE]"):
            continue  # an empty line, a comment, or the end
        event = json.loads(data)
        if "error" in event:
            raise SystemExit(event["error"]["message"])
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
        if event["usage"]:
            print("\n", event["usage"]["total_tokens"], "tokens")
