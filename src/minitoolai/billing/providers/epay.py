"""Take payments through an EPay-style provider: a redirect with an MD5 signature over its parameters.

Resellers in Asia use this protocol for Alipay, WeChat Pay and others. The browser is led to `submit.php` with the
signed order. The provider notifies `/webhooks/payments/epay` and expects `success`. MD5 is weak, so a
notification only says which order to read: the state comes from `api.php?act=order`, and its amount must be the one
asked for. The address that the customer returns to is never believed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from minitoolai.billing.providers.protocol import Begun, Incoming, Order, PaymentStatus, Report
from minitoolai.core.errors import InvalidRequest, Overloaded, SettingsError
from minitoolai.core.models import Payment
from minitoolai.httpclient.client import HttpClient, HttpError
from minitoolai.settings import Settings

log = logging.getLogger(__name__)
TIMEOUT_S = 20.0
LARGEST_ANSWER = 64 * 1024
_MONEY = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2}0*)?")
#: `status` of an order.
UNPAID, PAID, REFUNDED = 0, 1, 2


class _OrderState(msgspec.Struct, frozen=True):
    """The fields of `api.php?act=order` that we read. Providers send numbers as text, too."""

    code: int
    status: int = UNPAID
    money: str = ""
    out_trade_no: str = ""
    trade_no: str = ""


class EpayProvider:
    """Client of one merchant account at an EPay-style provider."""

    name = "epay"
    confirmation = "success"
    rereads_paid = True

    def __init__(
        self, http: HttpClient, *, url: str, merchant: str, key: str, title: str, method: str, currency: str, rate: str
    ) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._merchant = merchant
        self._key = key
        self.title = title
        self._method = method
        self._currency = currency
        self._rate = Decimal(rate)
        self.price_of_dollar = "" if currency == "USD" else f"{rate} {currency}"
        parts = urlsplit(url)
        self.form_action = f"{parts.scheme}://{parts.netloc}"

    async def begin(self, order: Order) -> Begun:
        """Sign the order and return the address of the provider's page. Nothing is sent to the provider yet."""
        charged = self._in_currency(order.cents)
        ref = f"epay-{order.payment_id}"
        fields = {
            "pid": self._merchant,
            "type": self._method,
            "out_trade_no": ref,
            "notify_url": order.notify_url,
            "return_url": order.done_url,
            "name": order.product,
            "money": _money(charged),
        }
        signed = {**{name: text for name, text in fields.items() if text}, "sign_type": "MD5"}
        signed["sign"] = sign(signed, self._key)
        foreign = (None, None) if self._currency == "USD" else (self._currency, charged)
        return Begun(f"{self._url}/submit.php?{urlencode(signed)}", ref, *foreign)

    def _in_currency(self, cents: int) -> int:
        """Return the price of an amount in dollars, in cents of the provider's currency, rounded up."""
        return int((Decimal(cents) * self._rate).to_integral_value(ROUND_CEILING))

    def read_report(self, incoming: Incoming) -> Report:
        """Check merchant and signature of a notification; compare in constant time."""
        fields = dict(incoming.query) or dict(parse_qsl(incoming.body.decode("utf-8", "replace"), max_num_fields=50))
        given = fields.get("sign", "")
        is_right = hmac.compare_digest(sign(fields, self._key).encode(), given.lower().encode())
        if not hmac.compare_digest(fields.get("pid", "").encode(), self._merchant.encode()) or not is_right:
            log.warning("a notification of the EPay provider has a wrong signature; check MINITOOLAI_EPAY_KEY")
            raise InvalidRequest("The signature is missing or wrong.", param="sign")
        if fields.get("trade_status") != "TRADE_SUCCESS":
            return Report()
        charged = _cents(fields.get("money", ""))
        if charged is None:
            raise InvalidRequest("money must be an amount such as 71.00.", param="money")
        return Report(ref=fields.get("out_trade_no"), charged=charged)

    async def read_status(self, payment: Payment) -> PaymentStatus:
        """Read the order from the provider and compare its amount with the one asked for."""
        found = await self._read_order(payment.provider_ref or "")
        if found is None or found.status not in (PAID, REFUNDED):
            return PaymentStatus(0, 0, None, False)
        expected = payment.charged if payment.charged is not None else payment.asked // 10_000_000
        if found.out_trade_no != payment.provider_ref or _cents(found.money) != expected:
            log.error(
                "payment %d: the EPay provider reports %s instead of %s; not credited, ask the provider",
                payment.id, found.money[:40], _money(expected),
            )  # fmt: skip
            return PaymentStatus(0, 0, None, False, "amount")
        back = payment.asked if found.status == REFUNDED else 0
        return PaymentStatus(payment.asked, back, found.trade_no[:100] or None, False)

    async def _read_order(self, ref: str) -> _OrderState | None:
        query = urlencode({"act": "order", "pid": self._merchant, "key": self._key, "out_trade_no": ref})
        try:
            response = await self._http.request("GET", f"{self._url}/api.php?{query}", read_timeout_s=TIMEOUT_S)
            body = await response.read(LARGEST_ANSWER)
        except HttpError as error:
            # The address contains the key, so only the kind of failure is logged.
            log.error("EPay request failed: %s", type(error).__name__)
            raise Overloaded("The payment provider is unavailable. Try again.", retry_after_s=30) from None
        try:
            order = msgspec.convert(msgspec.json.decode(body), _OrderState, strict=False)
        except ValueError:
            order = None
        if order is None or response.status != 200:
            log.error("the EPay provider answered %d without an order", response.status)
            raise Overloaded("The payment provider is unavailable. Try again.", retry_after_s=30)
        return order if order.code == 1 else None

    async def find_payment_id(self, intent: str) -> object:
        """Return None: notifications name the order."""
        return None

    async def missed_reports(self, since_s: int) -> list[Report]:
        """Return nothing: the provider has no list of events."""
        return []

    def close(self) -> None:
        """Do nothing: the HTTP client belongs to the process."""


def sign(fields: Mapping[str, str], key: str) -> str:
    """Return the MD5 signature: parameters sorted by name, without empty ones, `sign` and `sign_type`; then the key."""
    signed = sorted((name, text) for name, text in fields.items() if text and name not in ("sign", "sign_type"))
    text = "&".join(f"{name}={value}" for name, value in signed) + key
    # The protocol demands MD5.
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _cents(text: str) -> int | None:
    """Convert "71.00" to 7100, None if it is no amount."""
    return int(Decimal(text) * 100) if _MONEY.fullmatch(text) else None


def build_epay(settings: Settings, http: HttpClient) -> EpayProvider | None:
    """Return payments through an EPay-style provider, or None if no address is set. Raises SettingsError."""
    if not settings.epay_url:
        return None
    if not settings.epay_merchant or not settings.epay_key:
        raise SettingsError("MINITOOLAI_EPAY_URL also needs MINITOOLAI_EPAY_MERCHANT and MINITOOLAI_EPAY_KEY")
    if not re.fullmatch(r"[A-Z]{3}", settings.epay_currency):
        raise SettingsError("MINITOOLAI_EPAY_CURRENCY must be a code of three capital letters, like CNY")
    rate = settings.epay_rate
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", rate) or not Decimal(rate):
        raise SettingsError("MINITOOLAI_EPAY_RATE must be the price of a dollar in the currency, like 7.10")
    return EpayProvider(
        http,
        url=settings.epay_url,
        merchant=settings.epay_merchant,
        key=settings.epay_key,
        title=settings.epay_title,
        method=settings.epay_type,
        currency=settings.epay_currency,
        rate=rate,
    )
