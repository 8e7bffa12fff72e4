"""Ignore requests to upgrade an HTTP/1.1 connection, and read their bodies, in uvicorn's protocol.

Java's HTTP client and `curl --http2` add `Upgrade: h2c` to ordinary requests. A server may ignore that (RFC 9110 7.8),
but the parser stops after the head of such a request, and would read its body as the next request.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradeIgnoringProtocol(HttpToolsProtocol):
    """Parse a request with `Upgrade` a second time as if `Connection` did not mention it."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def _feed(self, data: bytes) -> bytes:
        """Parse the data. Return the bytes to parse again: a head that requests an upgrade, and the data after it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("CONNECT is not supported") from None
            head = self._head_without_upgrade()
            # The old parser has stopped for good.
            self.parser = _new_parser(self)
            return head + data[upgrade.args[0] :]
        return b""

    def _should_upgrade(self) -> bool:
        """Return True, so that uvicorn does not start a request that is about to be parsed again."""
        return True

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [
            b"%b: %b" % (name, _without_upgrade(value) if name == b"connection" else value)
            for name, value in self.headers
        ]
        return b"\r\n".join([*lines, b"", b""])


def _without_upgrade(connection: bytes) -> bytes:
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in (b"upgrade", b"http2-settings", b""))


def _new_parser(protocol: Any) -> Any:
    parser = httptools.HttpRequestParser(protocol)
    # As uvicorn does for the first one.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
