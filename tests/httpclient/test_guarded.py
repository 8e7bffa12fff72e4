"""Tests of the SSRF-safe client: forbidden addresses are refused before a packet is sent to them."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

import minitoolai
from minitoolai.core.errors import FetchFailed, ServiceError, UrlForbidden
from minitoolai.httpclient import guarded
from minitoolai.httpclient.dial import Address, connect_to
from minitoolai.httpclient.guarded import (
    MAX_REDIRECTS,
    GuardedClient,
    GuardedResponse,
    ThreadedResolver,
    check_url,
    is_public,
)
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

PUBLIC = "93.184.216.34"


def addresses(*texts: str, port: int = 443) -> list[Address]:
    return [
        (
            socket.AF_INET6 if ":" in text else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (text, port, 0, 0) if ":" in text else (text, port),
        )
        for text in texts
    ]


class Internet:
    """A hostile resolver, and a record of the addresses that were connected to."""

    def __init__(self, names: dict[str, list[list[str]]], port: int = 0) -> None:
        self._names = {name: itertools.chain(turns[:-1], itertools.repeat(turns[-1])) for name, turns in names.items()}
        self._port = port
        self.asked: list[str] = []
        self.dialled: list[str] = []
        self.client = GuardedClient(resolve=self.resolve, dial=self.dial)

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        if host not in self._names:
            # The system's resolver parses literals in all their notations; AI_NUMERICHOST keeps names on this machine.
            return await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        return addresses(*next(self._names[host]))

    async def dial(
        self, found: Sequence[Address], protocol: asyncio.Protocol, host: str, context: ssl.SSLContext | None
    ) -> None:
        """Connect to the test server on loopback without TLS, and record the addresses that were asked for."""
        self.dialled += [address[4][0] for address in found]
        await connect_to(addresses("127.0.0.1", port=self._port), protocol, host, None)


@pytest.fixture
def web() -> Iterator[Upstream]:
    async def hello(exchange: Exchange) -> None:
        exchange.answer(200, b"hello")

    with Upstream(hello) as upstream:
        yield upstream


ATTEMPTS = {
    "loopback": "https://127.0.0.1/",
    "loopback, another": "https://127.8.8.8/",
    "loopback by name": "https://localhost/",
    "loopback by another name": "https://loop.example.com/",
    "loopback IPv6": "https://[::1]/",
    "unspecified": "https://0.0.0.0/",
    "unspecified IPv6": "https://[::]/",
    "link-local, cloud metadata": "https://169.254.169.254/latest/meta-data/",
    "link-local by name": "https://metadata.example.com/",
    "link-local IPv6": "https://[fe80::1]/",
    "link-local IPv6 with its zone": "https://[fe80::1%25eth0]/",
    "private 10": "https://10.0.0.1/",
    "private 172": "https://172.16.0.1/",
    "private 192": "https://192.168.1.1/",
    "private IPv6": "https://[fd00::1]/",
    "carrier's": "https://100.64.0.1/",
    "multicast": "https://224.0.0.1/",
    "broadcast": "https://255.255.255.255/",
    "v4-mapped": "https://[::ffff:127.0.0.1]/",
    "v4-mapped in hexadecimal": "https://[::ffff:a00:1]/",
    "v4-compatible": "https://[::127.0.0.1]/",
    "NAT64": "https://[64:ff9b::7f00:1]/",
    "NAT64 by name": "https://nat64.example.com/",
    "6to4": "https://[2002:7f00:1::]/",
    "Teredo": "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "decimal": "https://2130706433/",
    "octal": "https://0177.0.0.1/",
    "octal in one": "https://017700000001/",
    "hexadecimal": "https://0x7f000001/",
    "hexadecimal parts": "https://0x7f.0.0.0x1/",
    "short form": "https://127.1/",
    "a dot at the end": "https://127.0.0.1./",
    "one private among public ones": "https://mixed.example.com/",
    "a name without a dot": "https://intranet/",
    "user name": "https://example.com@127.0.0.1/",
    "password": "https://user:secret@example.com/",
    "backslash": "https://example.com\\@127.0.0.1/",
    "letters that look like digits": "https://①②⑦.⓪.⓪.①/",
    "another port": "https://example.com:8443/",
    "the port of ssh": "https://example.com:22/",
    "no TLS": "http://example.com/",
    "a file": "file:///etc/passwd",
    "another protocol": "gopher://example.com/_GET",
    "no host": "https:///etc/passwd",
    "a second request inside": "https://example.com/\r\nHost: internal",
    "a space": "https://example.com/a b",
    "endless": "https://example.com/" + "a" * 3000,
}
NAMES = {
    "localhost": [["127.0.0.1"]],
    "loop.example.com": [["127.0.0.1"]],
    "metadata.example.com": [["169.254.169.254"]],
    "nat64.example.com": [["64:ff9b::a00:1"]],
    "mixed.example.com": [[PUBLIC, "192.168.0.1"]],
    "intranet": [["10.1.2.3"]],
}


@pytest.mark.parametrize("url", ATTEMPTS.values(), ids=list(ATTEMPTS))
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forbidden_address_is_refused_before_a_packet_is_sent(url: str, method: str, web: Upstream) -> None:
    internet = Internet(NAMES, web.port)
    work = internet.client.get(url) if method == "GET" else internet.client.post(url, b"{}", headers={})
    with pytest.raises(UrlForbidden) as refusal:
        asyncio.run(work)
    assert refusal.value.param == "url"
    assert refusal.value.message.startswith("url")
    assert internet.dialled == []
    assert web.seen == []


#: The URLs that a location header can carry. A target without a host is a path on the same server.
REDIRECTS = {name: url for name, url in ATTEMPTS.items() if url.isascii() and url.isprintable() and "///et" not in url}


@pytest.mark.parametrize("url", REDIRECTS.values(), ids=list(REDIRECTS))
def test_a_redirect_to_a_forbidden_address_is_refused_before_a_packet_is_sent(url: str) -> None:
    async def lure(exchange: Exchange) -> None:
        exchange.answer(302, b"", location=url)

    with Upstream(lure) as web:
        internet = Internet({**NAMES, "start.example.com": [[PUBLIC]]}, web.port)
        with pytest.raises(UrlForbidden):
            asyncio.run(internet.client.get("https://start.example.com/"))
        assert internet.dialled == [PUBLIC]
        assert len(web.seen) == 1


def test_dns_rebinding_between_check_and_connect_has_no_effect(
    web: Upstream,
) -> None:
    internet = Internet({"rebind.example.com": [[PUBLIC], ["127.0.0.1"]]}, web.port)
    assert asyncio.run(internet.client.get("https://rebind.example.com/")).body == b"hello"
    assert internet.asked == ["rebind.example.com"]
    assert internet.dialled == [PUBLIC]


def test_dns_rebinding_between_two_redirects_is_refused(web: Upstream) -> None:
    async def back(exchange: Exchange) -> None:
        exchange.answer(307, b"", location="/again")

    web.behave = back
    internet = Internet({"rebind.example.com": [[PUBLIC], ["127.0.0.1"]]}, web.port)
    with pytest.raises(UrlForbidden):
        asyncio.run(internet.client.get("https://rebind.example.com/"))
    assert internet.dialled == [PUBLIC]


def test_allowed_redirects_are_followed_up_to_the_limit(web: Upstream) -> None:
    async def onwards(exchange: Exchange) -> None:
        exchange.answer(302, b"", location=f"https://b.example.com{exchange.path}x")

    names = {"a.example.com": [[PUBLIC]], "b.example.com": [["2606:4700::1111"]]}
    web.behave = onwards
    internet = Internet(names, web.port)
    with pytest.raises(FetchFailed, match="redirects"):
        asyncio.run(internet.client.get("https://a.example.com/"))
    assert len(web.seen) == MAX_REDIRECTS + 1


def test_a_post_does_not_follow_a_redirect(web: Upstream) -> None:
    async def onwards(exchange: Exchange) -> None:
        exchange.answer(307, b"", location="https://b.example.com/")

    web.behave = onwards
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    assert asyncio.run(internet.client.post("https://a.example.com/", b"{}", headers={})) == 307
    assert len(web.seen) == 1


def _fail(web: Upstream, **limits: float) -> ServiceError:
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    with pytest.raises(FetchFailed) as failure:
        asyncio.run(internet.client.get("https://a.example.com/", **limits))  # type: ignore[arg-type]
    return failure.value


def test_a_body_over_the_limit_is_refused_by_its_content_length_and_while_reading(web: Upstream) -> None:
    async def announced(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n")
        await exchange.hang()

    async def unannounced(exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.gone.is_set():
            exchange.write(b"x" * 10_000)
            await asyncio.sleep(0)

    for behave in (announced, unannounced):
        web.behave = behave
        assert "longer than 1,000,000 bytes" in _fail(web, max_bytes=1_000_000).message


def test_a_server_that_sends_slowly_is_abandoned_after_the_total_timeout(web: Upstream) -> None:
    async def drip(exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.gone.is_set():
            exchange.write(b"x")
            await asyncio.sleep(0.02)

    web.behave = drip
    assert "within 0.3 s" in _fail(web, timeout_s=0.3).message


def test_a_post_succeeds_even_if_the_response_body_is_long_endless_or_cut_off(web: Upstream) -> None:
    async def long_body(exchange: Exchange) -> None:
        exchange.answer(200, b"x" * 1_000_000)

    async def endless(exchange: Exchange) -> None:
        exchange.begin()
        await exchange.hang()

    async def cut_off(exchange: Exchange) -> None:
        exchange.begin()
        exchange.write(b"half")
        exchange.reset()

    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    for behave in (long_body, endless, cut_off):
        web.behave = behave
        assert asyncio.run(internet.client.post("https://a.example.com/", b"{}", headers={}, timeout_s=0.5)) == 200


def test_a_name_server_that_does_not_answer_times_out(web: Upstream) -> None:
    async def never(_: str, __: int) -> Sequence[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(FetchFailed, match=r"within 0\.2 s"):
        asyncio.run(GuardedClient(resolve=never).post("https://a.example.com/", b"", headers={}, timeout_s=0.2))


def test_a_compressed_response_is_refused(web: Upstream) -> None:
    async def bomb(exchange: Exchange) -> None:
        exchange.answer(200, b"\x1f\x8b", content_encoding="gzip")

    web.behave = bomb
    assert "compressed" in _fail(web).message


def test_no_cookie_and_no_key_is_sent_or_stored(web: Upstream) -> None:
    async def set_cookie(exchange: Exchange) -> None:
        exchange.answer(302 if exchange.path == "/" else 200, b"", set_cookie="a=b", location="/next")

    web.behave = set_cookie
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    asyncio.run(internet.client.get("https://a.example.com/"))
    for exchange in web.seen:
        assert set(exchange.headers) == {"host", "user-agent", "accept", "accept-encoding"}
        assert exchange.headers["accept-encoding"] == "identity"


def test_the_certificate_is_verified_for_the_host_name(web: Upstream) -> None:
    # The test server has no TLS; check only that TLS was started with a context that verifies names.
    seen: list[tuple[str, bool, ssl.VerifyMode]] = []

    async def dial(_: Sequence[Address], __: asyncio.Protocol, host: str, context: ssl.SSLContext | None) -> None:
        assert context is not None
        seen.append((host, context.check_hostname, context.verify_mode))
        raise ssl.SSLCertVerificationError("self-signed certificate")

    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    client = GuardedClient(resolve=internet.resolve, dial=dial)
    with pytest.raises(FetchFailed, match="self-signed"):
        asyncio.run(client.get("https://a.example.com/"))
    assert seen == [("a.example.com", True, ssl.CERT_REQUIRED)]


def test_an_unknown_name_and_a_closed_port_are_fetch_failures() -> None:
    async def unknown(_: str, __: int) -> Sequence[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(FetchFailed, match="not known"):
        asyncio.run(GuardedClient(resolve=unknown).get("https://nowhere.example.com/"))
    with pytest.raises(FetchFailed, match="url"):
        asyncio.run(GuardedClient(insecure=True).get("http://127.0.0.1:9/"))


def test_only_the_insecure_client_may_call_loopback_over_http(web: Upstream) -> None:
    url = f"http://127.0.0.1:{web.port}/hook?x=1#part"
    status = asyncio.run(GuardedClient(insecure=True).post(url, b'{"a":1}', headers={"content-type": "text/plain"}))
    assert status == 200
    assert web.last.path == "/hook?x=1"
    assert web.last.body == {"a": 1}
    with pytest.raises(UrlForbidden):
        asyncio.run(GuardedClient().post(url, b"{}", headers={}))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:443/a?b=c",
        "https://sub.example-site.co.uk/x",
        "https://xn--bcher-kva.example/",
        f"https://{PUBLIC}/",
        "https://[2606:4700:4700::1111]/",
        "https://hook.test_underscore.com/",
    ],
)
def test_ordinary_urls_are_allowed(url: str) -> None:
    check_url(url, field="webhook_url")


@pytest.mark.parametrize("text", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(text)


def test_a_name_is_not_a_public_address() -> None:
    assert not is_public("example.com")


# ── limits and details ────────────────────────────────────────────────────────────────────────────────────────


def get(web: Upstream, url: str = "https://a.example.com/", **options: float) -> GuardedResponse:
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    return asyncio.run(internet.client.get(url, **options))  # type: ignore[arg-type]


def test_the_limits_are_those_of_the_documentation() -> None:
    limits = (guarded.MAX_BODY_BYTES, guarded.TIMEOUT_S, guarded.MAX_REDIRECTS, guarded.MAX_DRAIN_BYTES)
    assert limits == (10_485_760, 5.0, 3, 65_536)
    assert (guarded.MAX_URL_LENGTH, guarded.RESOLVER_THREADS) == (2000, 8)


def test_a_url_may_have_2000_characters_and_no_more() -> None:
    base = "https://example.com/"
    check_url(base + "a" * (2000 - len(base)), field="url")
    with pytest.raises(UrlForbidden, match="url must be at most 2000 ASCII characters"):
        check_url(base + "a" * (2001 - len(base)), field="url")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com:99999/", "not a valid URL"),
        ("https://[::1/", "not a valid URL"),
        ("ftp://example.com/", "must begin with https://"),
        ("https:///path", "must begin with https://"),
        ("https://a:b@example.com/", "must not contain a user name"),
        ("https://example.com/\\x", "must not contain a user name"),
        ("https://example.com:80/", "must use port 443"),
        ("https://intranet/", "must name a public host"),
        ("https://10.0.0.1/", "must use a public address"),
        ("https://example.0x7f/", "must use a public address"),
        ("https://exa mple.com/", "percent-encode"),
    ],
)
def test_each_refusal_names_the_field_and_the_problem(url: str, message: str) -> None:
    with pytest.raises(UrlForbidden, match=message) as refusal:
        check_url(url, field="webhook_url")
    assert refusal.value.param == "webhook_url"
    assert refusal.value.message.startswith("webhook_url")


def test_insecure_allows_http_ports_and_private_hosts_but_no_password_and_no_backslash() -> None:
    assert check_url("http://localhost:8080/x", field="url", insecure=True).port == 8080
    for url in ("http://a:b@localhost/", "http://localhost\\x/", "ftp://localhost/", "http:///x"):
        with pytest.raises(UrlForbidden):
            check_url(url, field="url", insecure=True)


@pytest.mark.parametrize("text", ["100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "223.255.255.255"])
def test_neighbours_of_reserved_networks_are_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize("text", ["2606:4700::1%eth0", "::ffff:10.0.0.1", "2001:db8::1", "4000::1", "1::1", "fe80::1"])
def test_scoped_embedded_and_reserved_ipv6_addresses_are_not_public(text: str) -> None:
    assert not is_public(text)


def test_a_response_has_status_headers_body_and_its_final_url(web: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.path == "/old?a=b":
            exchange.answer(301, b"", location="new?c=d")
        else:
            exchange.answer(404, b"nothing", x_kind="test")

    web.behave = behave
    response = get(web, "https://a.example.com/old?a=b#part")
    assert (response.status, response.body, response.headers["x-kind"]) == (404, b"nothing", "test")
    assert response.url == "https://a.example.com/new?c=d"
    with pytest.raises(AttributeError):
        response.status = 200  # type: ignore[misc]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_status_is_followed(web: Upstream, status: int) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(status if exchange.path == "/" else 200, b"", location="/next")

    web.behave = behave
    assert get(web).url == "https://a.example.com/next"


@pytest.mark.parametrize(("status", "headers"), [(302, {}), (201, {"location": "/next"}), (300, {"location": "/n"})])
def test_other_responses_are_returned_as_they_are(web: Upstream, status: int, headers: dict[str, str]) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(status, b"body", **headers)

    web.behave = behave
    response = get(web)
    assert (response.status, response.body, len(web.seen)) == (status, b"body", 1)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_exactly_the_limit_is_returned_and_one_more_byte_is_not(web: Upstream, announced: bool) -> None:
    async def behave(exchange: Exchange) -> None:
        if announced:
            exchange.answer(200, b"x" * 1000)
            return
        exchange.begin()
        exchange.write(b"x" * 600)
        exchange.write(b"x" * 400)
        exchange.end()

    web.behave = behave
    assert get(web, max_bytes=1000).body == b"x" * 1000
    failure = _fail(web, max_bytes=999)
    assert "url: the response is longer than 999 bytes" in failure.message
    assert failure.param == "url"


def test_an_announced_body_is_refused_before_it_arrives(web: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")
        await exchange.hang()

    web.behave = behave
    assert "longer than 1,000 bytes" in _fail(web, max_bytes=1000, timeout_s=3.0).message


def test_an_uncompressed_encoding_may_be_named(web: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, b"plain", content_encoding="Identity")

    web.behave = behave
    assert get(web).body == b"plain"


def test_the_total_timeout_includes_redirects(web: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(0.15)
        exchange.answer(302, b"", location=exchange.path + "x")

    web.behave = behave
    failure = _fail(web, timeout_s=0.3)
    assert "no complete response within 0.3 s" in failure.message
    assert failure.param == "url"


def test_a_post_reads_at_most_64_kib_of_an_endless_response_and_closes_the_connection(web: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.gone.is_set():
            exchange.write(b"x" * 1000)
            await asyncio.sleep(0)

    web.behave = behave
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    started_s = time.monotonic()
    status = asyncio.run(internet.client.post("https://a.example.com/", b"{}", headers={"x-a": "b"}, timeout_s=20.0))
    assert status == 200
    assert time.monotonic() - started_s < 10
    assert web.last.headers["x-a"] == "b"
    assert web.last.raw == b"{}"
    eventually(web.last.gone.is_set, within_s=5)


def test_a_post_lets_the_receiver_finish_a_short_response(web: Upstream) -> None:
    finished: list[bool] = []

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        exchange.write(b"x")
        await asyncio.sleep(0.2)
        finished.append(not exchange.gone.is_set())
        exchange.end()

    web.behave = behave
    internet = Internet({"a.example.com": [[PUBLIC]]}, web.port)
    assert asyncio.run(internet.client.post("https://a.example.com/", b"", headers={}, timeout_s=5.0)) == 200
    assert finished == [True]


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_server_that_breaks_off_before_the_head_is_a_fetch_failure(web: Upstream, method: str) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.reset()

    web.behave = behave
    client = Internet({"a.example.com": [[PUBLIC]]}, web.port).client
    url = "https://a.example.com/"
    work = client.get(url, field="f") if method == "get" else client.post(url, b"", headers={}, field="f")
    with pytest.raises(FetchFailed, match=r"^f: the server closed the connection") as failure:
        asyncio.run(work)
    assert failure.value.param == "f"


def test_a_host_without_addresses_and_a_name_that_cannot_be_encoded_are_fetch_failures() -> None:
    async def nothing(_: str, __: int) -> Sequence[Address]:
        return []

    with pytest.raises(FetchFailed, match=r"f: the host a\.example\.com has no address") as failure:
        asyncio.run(GuardedClient(resolve=nothing).get("https://a.example.com/", field="f"))
    assert failure.value.param == "f"
    long_label = "a" * 80
    with pytest.raises(FetchFailed) as failure:
        asyncio.run(GuardedClient().get(f"https://{long_label}.example.com/", field="f"))
    assert failure.value.param == "f"


def test_a_header_with_a_line_break_is_refused(web: Upstream) -> None:
    client = Internet({"a.example.com": [[PUBLIC]]}, web.port).client
    with pytest.raises(UrlForbidden, match=r"^f: the value of the header x-a") as refusal:
        asyncio.run(client.post("https://a.example.com/", b"", headers={"x-a": "b\r\nc: d"}, field="f"))
    assert refusal.value.param == "f"
    assert web.seen == []


def test_a_private_address_of_a_name_is_refused_with_the_name(web: Upstream) -> None:
    client = Internet({"loop.example.com": [["127.0.0.1"]]}, web.port).client
    with pytest.raises(UrlForbidden, match=r"f must resolve to a public address, but loop\.example\.com does not"):
        asyncio.run(client.get("https://loop.example.com/", field="f"))


def test_the_given_tls_context_and_user_agent_are_used(web: Upstream) -> None:
    own, contexts = ssl.create_default_context(), []

    async def resolve(_: str, __: int) -> Sequence[Address]:
        return addresses(PUBLIC)

    async def dial(_: Sequence[Address], protocol: asyncio.Protocol, host: str, context: object) -> None:
        contexts.append(context)
        await connect_to(addresses("127.0.0.1", port=web.port), protocol, host, None)

    client = GuardedClient(resolve=resolve, dial=dial, ssl_context=own, user_agent=lambda: "tester/1")
    asyncio.run(client.get("https://a.example.com/"))
    assert contexts == [own]
    assert web.last.headers["user-agent"] == "tester/1"
    client = GuardedClient(resolve=resolve, dial=dial)
    for _ in range(2):
        asyncio.run(client.get("https://a.example.com/"))
    assert contexts[1] is contexts[2] is not own
    assert web.last.headers["user-agent"] == f"minitoolai/{minitoolai.__version__}"
    asyncio.run(GuardedClient(insecure=True, resolve=resolve, dial=dial).get("http://a.example.com/"))
    assert contexts[3] is None


def test_names_are_resolved_for_their_port_in_a_separate_thread_pool() -> None:
    resolver = ThreadedResolver()
    found = asyncio.run(resolver("127.0.0.1", 443))
    assert {(address[1], address[4]) for address in found} == {(socket.SOCK_STREAM, ("127.0.0.1", 443))}
    assert any(thread.name.startswith("names") for thread in threading.enumerate())
