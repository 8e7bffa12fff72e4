"""Name the browser and the system of a User-Agent header, for the list of sessions."""

from __future__ import annotations

import re

from minitoolai.core.models import Device

#: Pattern → name. The first match wins: most browsers also name the browsers that they derive from.
_BROWSERS = {
    r"Edg(e|A|iOS)?/": "Edge",
    r"OPR/|Opera": "Opera",
    r"SamsungBrowser/": "Samsung Internet",
    r"Firefox/|FxiOS/": "Firefox",
    r"Chrome/|CriOS/|Chromium/": "Chrome",
    r"Safari/": "Safari",
}
_SYSTEMS = {
    r"iPhone": "iPhone",
    r"iPad": "iPad",
    r"Android": "Android",
    r"CrOS": "ChromeOS",
    r"Windows": "Windows",
    r"Mac OS X|Macintosh": "macOS",
    r"Linux|X11": "Linux",
}
MAX_ADDRESS_LENGTH = 45


def describe_device(address: str, user_agent: str) -> Device:
    """Return the names of browser and system, which a session stores. The whole header would identify more."""
    return Device(address[:MAX_ADDRESS_LENGTH], _first(_BROWSERS, user_agent), _first(_SYSTEMS, user_agent))


def _first(names: dict[str, str], text: str) -> str:
    return next((name for pattern, name in names.items() if re.search(pattern, text[:500])), "")
