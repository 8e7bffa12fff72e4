"""Browsers and systems are named as people know them."""

from __future__ import annotations

import pytest

from minitoolai.accounts.devices import describe_device

_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"


@pytest.mark.parametrize(
    ("user_agent", "browser", "system"),
    [
        (_WINDOWS, "Chrome", "Windows"),
        (f"{_WINDOWS} Edg/140.0", "Edge", "Windows"),
        (f"{_WINDOWS} OPR/120.0", "Opera", "Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox", "Linux"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 15_0) AppleWebKit/605 Version/19 Safari/605", "Safari", "macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) CriOS/140.0 Safari/604", "Chrome", "iPhone"),
        ("Mozilla/5.0 (Linux; Android 16) SamsungBrowser/29.0 Chrome/130 Mobile Safari/537", "Samsung Internet",
         "Android"),
        ("Mozilla/5.0 (X11; CrOS x86_64 16000.0) Chrome/140.0 Safari/537.36", "Chrome", "ChromeOS"),
        ("curl/8.9", "", ""),
        ("", "", ""),
        ("x" * 100_000 + "Firefox/1", "", ""),
    ],
)  # fmt: skip
def test_a_user_agent_is_named(user_agent: str, browser: str, system: str) -> None:
    device = describe_device("192.0.2.1", user_agent)
    assert (device.address, device.browser, device.system) == ("192.0.2.1", browser, system)


def test_a_long_address_is_cut() -> None:
    assert len(describe_device("x" * 500, "").address) == 45
