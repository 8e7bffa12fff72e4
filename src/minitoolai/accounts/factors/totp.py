"""One-time codes of authenticator apps (TOTP, RFC 6238), and recovery codes for a lost device. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from urllib.parse import quote, urlencode

from minitoolai.core.clock import random_bytes

#: The parameters that every authenticator app knows: SHA-1, six digits, thirty seconds.
DIGITS, STEP_MS, SECRET_BYTES = 6, 30_000, 20
#: Codes of this many steps before and after the current one are accepted, because clocks differ.
DRIFT_STEPS = 1
RECOVERY_CODES, RECOVERY_BYTES = 10, 10


def new_secret() -> bytes:
    """Return a random secret to share with an authenticator app."""
    return random_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """Return the secret as people type it: base32 (RFC 4648) without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def provisioning_url(secret: bytes, email: str, issuer: str) -> str:
    """Return the `otpauth://` URL that the QR code shows to an authenticator app. `issuer`: the shop's name."""
    issuer = issuer.replace(":", " ")
    query = urlencode({"secret": secret_text(secret), "issuer": issuer, "algorithm": "SHA1", "digits": DIGITS,
                       "period": STEP_MS // 1000})  # fmt: skip
    return f"otpauth://totp/{quote(f'{issuer}:{email}', safe=':@')}?{query}"


def code_of_step(secret: bytes, step: int, digits: int = DIGITS) -> str:
    """Return the code of a time step (HOTP, RFC 4226)."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return str(number % 10**digits).zfill(digits)


def step_at(now_ms: int) -> int:
    """Return the time step of a moment."""
    return now_ms // STEP_MS


def matching_step(secret: bytes, code: str, now_ms: int, after_step: int = -1) -> int | None:
    """Return the step close to now that has this code, or None. Steps up to `after_step` are not accepted again."""
    found = None
    for step in range(step_at(now_ms) - DRIFT_STEPS, step_at(now_ms) + DRIFT_STEPS + 1):
        if hmac.compare_digest(code_of_step(secret, step).encode(), code.encode()) and step > after_step:
            found = step
    return found


def normalize_code(text: str) -> str:
    """Return a typed code without spaces and hyphens, in lower case."""
    return re.sub(r"[\s-]", "", text[:100]).lower()


def new_recovery_codes() -> list[str]:
    """Return ten codes like `abcd-efgh-ijkl-mnop`, each of 80 random bits."""
    texts = [base64.b32encode(random_bytes(RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
    return ["-".join(re.findall("....", text)) for text in texts]


def recovery_hash(account_id: int, code: str) -> bytes:
    """Return the hash that is stored for a recovery code. A plain hash is enough: a code has 80 random bits."""
    return hashlib.sha256(f"recovery code\0{account_id}\0{normalize_code(code)}".encode()).digest()
