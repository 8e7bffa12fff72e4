"""A server with a domain name, and a browser without JavaScript that uses passkeys by hand."""

from __future__ import annotations

import html
import json
import re
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.support.authenticator import Authenticator
from tests.support.browse import PASSWORD, Visitor, new_user
from tests.support.cli import CATALOG
from tests.support.identity_provider import free_port
from tests.support.server import ServerProcess

PAGE = "/account/passkeys"


def server_with_domain(folder: Any, **env: str) -> ServerProcess:
    """Return a server, not started, whose public URL has the name `localhost`: browsers allow passkeys there."""
    port = free_port()
    settings = {"MINITOOLAI_TRIES_FACTOR": "1000", "MINITOOLAI_PUBLIC_URL": f"http://localhost:{port}"} | env
    server = ServerProcess(folder, catalog=CATALOG, env=settings)
    server.port = port
    return server


def origin_of(server: ServerProcess) -> str:
    return f"http://localhost:{server.port}"


def send(visitor: Visitor, path: str, **values: str) -> requests.Response:
    """Send what a script would send from the present page, with its CSRF token."""
    found = re.search(r'name="csrf" value="([^"]+)"', visitor.page.text)
    assert found
    parts = urlsplit(visitor.server.url)
    headers = {"origin": f"{parts.scheme}://{parts.netloc}", "sec-fetch-site": "same-origin"}
    return visitor.post(visitor.url(path), data={"csrf": found[1]} | values, headers=headers, timeout=20)


def add_passkey(visitor: Visitor, device: Authenticator, name: str = "Laptop", **proof: str) -> requests.Response:
    """Add a passkey on the pages of the account, and return the last page."""
    visitor.open(PAGE)
    visitor.submit(f"{PAGE}/begin", name=name, **(proof or {"password_passkey": PASSWORD}))
    found = re.search(r'data-passkey-create="([^"]+)"', visitor.page.text)
    if found is None:
        return visitor.page
    credential = device.create(json.loads(html.unescape(found[1])))
    return visitor.submit(f"{PAGE}/add", credential=credential)


def user_with_passkey(server: ServerProcess, email: str) -> tuple[Visitor, Authenticator]:
    """Return the browser of a new user, and the passkey that they have just added."""
    visitor, device = new_user(server, email), Authenticator(origin_of(server))
    assert "recovery-codes" in add_passkey(visitor, device).text
    return visitor, device


def sign_in(visitor: Visitor, device: Authenticator, **fields: str) -> requests.Response:
    """Sign in with a passkey, from the page of the sign-in."""
    if not fields:
        visitor.open("/signin")
    began = send(visitor, "/signin/passkey/begin", **fields)
    assert began.status_code == 200, began.text
    visitor.page = send(visitor, "/signin/passkey", credential=device.sign(began.json()), **fields)
    return visitor.page


def confirm(visitor: Visitor, device: Authenticator) -> str:
    """Return a signature that confirms an action on the present page."""
    return device.sign(send(visitor, f"{PAGE}/challenge").json())
