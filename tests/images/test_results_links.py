"""Links begin where clients can reach this server, as the operator says or as it listens; nothing else decides."""

from __future__ import annotations

import pytest

from minitoolai.core.errors import SettingsError
from minitoolai.images.results import PublicAddress


@pytest.mark.parametrize(
    ("public_url", "host", "address"),
    [
        ("", "127.0.0.1", "http://127.0.0.1:8000"),
        ("", "0.0.0.0", "http://127.0.0.1:8000"),
        ("", "::", "http://[::1]:8000"),
        ("", "::1", "http://[::1]:8000"),
        ("", "api.internal", "http://api.internal:8000"),
        ("https://api.example.com", "0.0.0.0", "https://api.example.com"),
        ("https://api.example.com/", "0.0.0.0", "https://api.example.com"),
        ("https://example.com/ai/", "127.0.0.1", "https://example.com/ai"),
        ("http://localhost:9000", "127.0.0.1", "http://localhost:9000"),
    ],
)
def test_links_begin_where_clients_reach_the_server(public_url: str, host: str, address: str) -> None:
    assert PublicAddress(public_url, host, 8000)() == address


def test_a_port_that_is_known_only_after_the_start_is_the_one_in_links() -> None:
    address = PublicAddress("", "127.0.0.1", 0)
    address.listening_on(41_234)
    assert address() == "http://127.0.0.1:41234"


@pytest.mark.parametrize("url", ["api.example.com", "ftp://example.com", "https://", "https://a?b=c", "https://a#b"])
def test_an_address_behind_which_no_path_can_stand_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MINITOOLAI_PUBLIC_URL"):
        PublicAddress(url, "127.0.0.1", 8000)
