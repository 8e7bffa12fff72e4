"""An authenticator for passkeys in software: makes credentials and signs challenges, as WebAuthn Level 2 describes."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from minitoolai.core import cbor

#: Flags of authenticator data: user present, user verified, backup eligible and backed up, attested data.
PRESENT, VERIFIED, SYNCED, ATTESTED = 0x01, 0x04, 0x18, 0x40


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """One passkey on one device. `origin` is what the browser names; `counter` grows by `step` with each signature."""

    def __init__(
        self, origin: str, *, rp_id: str = "localhost", flags: int = PRESENT | VERIFIED, step: int = 1
    ) -> None:
        self.origin = origin
        self.rp_id = rp_id
        self.flags = flags
        self.step = step
        self.counter = 0
        self.id = secrets.token_bytes(16)
        self.user_handle = b""
        self._key = ec.generate_private_key(ec.SECP256R1())

    def copy(self) -> Authenticator:
        """Return another device with the same key and the same counter."""
        other = Authenticator(self.origin, rp_id=self.rp_id, flags=self.flags, step=self.step)
        other.__dict__.update(self.__dict__)
        return other

    def create(self, options: dict[str, Any]) -> str:
        """Return what `navigator.credentials.create` gives a page."""
        self.user_handle = unb64(options["user"]["id"])
        numbers = self._key.public_key().public_numbers()
        # COSE: an EC2 key for ES256 on P-256.
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        public_key = cbor.encode({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + public_key
        data = self._data(self.flags | ATTESTED) + attested
        attestation = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client_data("webauthn.create", options["challenge"])
        return self._credential(
            {"clientDataJSON": b64(client), "attestationObject": b64(attestation), "transports": ["internal"]}
        )

    def sign(self, options: dict[str, Any], *, user_handle: bytes | None = None) -> str:
        """Return what `navigator.credentials.get` gives a page."""
        self.counter += self.step
        data = self._data(self.flags)
        client = self._client_data("webauthn.get", options["challenge"])
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        handle = self.user_handle if user_handle is None else user_handle
        return self._credential(
            {"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(signature),
             "userHandle": b64(handle)}
        )  # fmt: skip

    def _data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4, "big")

    def _client_data(self, kind: str, challenge: str) -> bytes:
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}).encode()

    def _credential(self, response: dict[str, object]) -> str:
        return json.dumps({"id": b64(self.id), "rawId": b64(self.id), "type": "public-key", "response": response})
