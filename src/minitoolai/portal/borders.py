"""Where an answer may lead, and what every answer of the portal forbids browsers."""

from __future__ import annotations

from minitoolai.portal.i18n import LANGUAGES


def is_local(path: str) -> bool:
    """Whether an address leads to a page of ours and nowhere else, however a browser may read it."""
    if not path.startswith("/") or "\\" in path or any(ord(c) <= 32 or ord(c) == 127 for c in path):
        return False
    return path.split("/")[1].split("?", maxsplit=1)[0] in LANGUAGES


def security_headers(*, secure: bool, form_action: str = "") -> dict[str, str]:
    """What every answer of the portal forbids browsers."""
    actions = f"'self' {form_action}".strip()
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        f"font-src 'self'; connect-src 'self'; form-action {actions}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if secure:
        headers["strict-transport-security"] = "max-age=31536000"
    return headers
