"""Which addresses lead to the open internet. Everything that is not known to is forbidden.

IANA's special-purpose registries (RFC 6890), and what hides an IPv4 address inside an IPv6 one.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from minitoolai.core.errors import UrlForbidden

LONGEST_URL = 2000

_CLOSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
#: The only part of IPv6 that is handed out, and the closed places in it: IETF's own, examples, 6to4.
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: The last 32 bits are the IPv4 address that is really reached: mapped ones, and translation by NAT64.
_CARRIES_V4 = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))


def is_public(text: str) -> bool:
    """Whether a numeric address leads to the open internet, and nowhere else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _CARRIES_V4):
            return _is_public_v4(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return address.scope_id is None and address in _OPEN_V6 and not any(address in n for n in _CLOSED_V6)
    return _is_public_v4(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in network for network in _CLOSED_V4)


def check_url(url: str, *, field: str, insecure: bool = False) -> SplitResult:
    """The parts of a URL that may be called, as far as its text can tell. UrlForbidden names `field`.

    `insecure` permits http, any port and addresses that are not public: for development.
    """
    if len(url) > LONGEST_URL or re.search(r"[^\x21-\x7e]", url):
        raise UrlForbidden(
            f"{field} must be at most {LONGEST_URL} characters of plain ASCII, percent-encoded", param=field
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlForbidden(f"{field} is not a URL; write it like https://example.com/path", param=field) from None
    schemes = ("https", "http") if insecure else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise UrlForbidden(f"{field} must begin with https:// and a host name", param=field)
    if "@" in parts.netloc or "\\" in url:
        raise UrlForbidden(f"{field} must have no user name, password or backslash in it", param=field)
    if not insecure:
        if port not in (None, 443):
            raise UrlForbidden(f"{field} must use port 443", param=field)
        _check_host(parts.hostname, field)
    return parts


def _check_host(host: str, field: str) -> None:
    """A number in disguise (octal, hexadecimal, decimal) is nobody's name: resolvers read them, each in its own way."""
    bare = host.rstrip(".")
    is_v6 = ":" in bare
    ends_in_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", bare.rpartition(".")[2]) is not None
    if (is_v6 or ends_in_number) and not is_public(bare):
        raise UrlForbidden(f"{field} must lead to a public address", param=field)
    if not is_v6 and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", bare):
        raise UrlForbidden(f"{field} must name a public host, like example.com", param=field)
