"""Asks for a picture, tells how it comes along, and saves it. Needs requests; MINITOOLAI_URL and MINITOOLAI_KEY."""

import json
import os
import sys

import requests

base = os.environ["MINITOOLAI_URL"]
answer = requests.post(
    base + "/api/texttoimage/",
    headers={"Authorization": f"Bearer {os.environ['MINITOOLAI_KEY']}"},
    json={"model": "realvision", "prompt": "a red apple", "width": 512, "height": 512, "steps": 4},
    timeout=30,
)
job = answer.json()
if job["status"] == "error":
    sys.exit(job["message"])

# No key from here on: the signature is enough.
events = requests.get(
    f"{base}/api/texttoimage/jobs/{job['jobid']}/events",
    params={"signature": job["signature"]},
    stream=True,
    timeout=60,
)
state = {}
for line in events.iter_lines(decode_unicode=True):
    if line.startswith("data: ") and line != "data: [DONE]":
        state = json.loads(line.removeprefix("data: "))
        print(state["status"], "-", state["message"])
if state.get("status") != "success":
    sys.exit(1)

with open("apple.png", "wb") as file:
    file.write(requests.get(state["image_url"], timeout=30).content)
print("apple.png, drawn by", state["model"], "with seed", state["seed"])
