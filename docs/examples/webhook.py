"""Receives webhooks and believes only those that are signed: WEBHOOK_SECRET=whsec_… python webhook.py 8080"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
SEEN: set[str] = set()  # a shop would keep these where they survive a restart


def is_genuine(headers: Message, body: bytes) -> bool:
    """Signed with our secret, over these very bytes, within the last five minutes."""
    name, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    digest = hmac.digest(SECRET, f"{name}.{sent}.".encode() + body, hashlib.sha256)
    right = "v1," + base64.b64encode(digest).decode()
    is_fresh = sent.isdecimal() and abs(time.time() - int(sent)) < 300
    return is_fresh and hmac.compare_digest(right, headers.get("webhook-signature", ""))


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 once the event is taken; anything but 2xx is tried again for a day."""

    def do_POST(self) -> None:
        """One event."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not is_genuine(self.headers, body):
            self.send_error(401)
            return
        event = json.loads(body)
        if event["id"] not in SEEN:  # the same event may come twice
            SEEN.add(event["id"])
            print(event["type"], event["data"]["jobid"], event["data"]["image_url"], flush=True)
        self.send_response(204)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
