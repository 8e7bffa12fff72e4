"""What the cashier needs from a payment provider.

A provider begins payments, authenticates notifications, and reads the state of a payment from its own API. It never
touches the database or the ledger: `billing/cashier.py` does, in the same way for every provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec

from minitoolai.core.models import Payment
from minitoolai.core.plans import PeriodKind

NANO_PER_CENT = 10_000_000


class Order(msgspec.Struct, frozen=True):
    """A payment to begin. Its row is stored already. `product` is what the provider shows to the customer."""

    payment_id: int
    email: str
    cents: int
    lang: str
    product: str
    #: Our addresses: after the payment, if the customer gives up, and for notifications.
    done_url: str
    back_url: str
    notify_url: str


class Begun(msgspec.Struct, frozen=True):
    """A payment that has begun: where to lead the browser, and the provider's reference.

    With a `currency`, the customer pays `charged` of its cents instead of dollars.
    """

    url: str
    ref: str
    currency: str | None = None
    charged: int | None = None


class PaymentStatus(msgspec.Struct, frozen=True):
    """State of a payment as read from its provider, in nano-dollars."""

    paid: int
    reversed: int
    intent: str | None
    #: No money can arrive any more.
    is_over: bool
    #: Why something that was paid is not credited, or why nothing was paid.
    problem: Literal["currency", "amount", "failed"] | None = None
    #: The amount paid in another currency, in its cents.
    currency: str | None = None
    charged: int | None = None


class Incoming(msgspec.Struct, frozen=True):
    """A notification as it arrived."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Report(msgspec.Struct, frozen=True):
    """An authenticated notification: which payment may have changed. Its state is then read from the provider.

    `ref` is the reference of `Begun`, `payment_id` our own number in text, `intent` an ID that the status names. An
    event with an `event_id` is handled once.
    """

    event_id: str | None = None
    ref: str | None = None
    payment_id: str | None = None
    intent: str | None = None
    #: The amount that it reports, in the cents of the payment's currency; compared with the amount asked for.
    charged: int | None = None
    #: Instead of a payment: the provider's ID of a subscription, and our own number of it in text.
    subscription: str | None = None
    subscription_id: str | None = None


class Provider(Protocol):
    """One way to pay."""

    #: Stored with each payment, and part of the address of notifications.
    name: str
    #: What customers read on the button, in English.
    title: str
    #: Origin to which the form of a payment may lead (Content-Security-Policy).
    form_action: str
    #: The body that confirms a notification.
    confirmation: str
    #: The price of a dollar in the currency in which customers pay, like "7.20 CNY"; "" for dollars.
    price_of_dollar: str
    #: Nothing reports refunds, so paid payments are read again for a week.
    rereads_paid: bool

    async def begin(self, order: Order) -> Begun:
        """Begin a payment. Raise Overloaded if the provider does not respond."""

    async def read_status(self, payment: Payment) -> PaymentStatus:
        """Read the state of a payment. Raise Overloaded if the provider does not respond."""

    def read_report(self, incoming: Incoming) -> Report:
        """Authenticate a notification. Raise InvalidRequest for a wrong signature."""

    async def find_payment_id(self, intent: str) -> object:
        """Return our number of the payment with this intent, as the provider stores it, or None."""

    async def missed_reports(self, since_s: int) -> list[Report]:
        """Return notifications since a time that may have been lost, if the provider lists them."""

    def close(self) -> None:
        """Stop threads."""


class Declined(Exception):
    """The provider refused to charge a saved payment method."""


class SavedMethod(msgspec.Struct, frozen=True):
    """A payment method that a customer saved: the provider's IDs, and how to show it."""

    customer: str
    method: str
    name: str


@runtime_checkable
class SavesMethods(Protocol):
    """A provider that can charge a saved payment method while the customer is away."""

    async def begin_setup(self, order: Order) -> str:
        """Return the address at which the customer saves a payment method. `order.cents` is not charged."""

    async def read_setup(self, session_id: str, payment_id: int) -> SavedMethod | None:
        """Return the method saved in a session that `begin_setup` made for this number, or None."""

    async def charge(self, payment_id: int, cents: int, customer: str, method: str, product: str) -> str:
        """Charge a saved method and return the reference. Safe to repeat. Raise Declined or Overloaded."""


class SubscriptionStatus(msgspec.Struct, frozen=True):
    """State of a subscription as read from its provider. `ref` is the provider's ID, once there is one.

    `ending`: it is cancelled at the end of its period, or its last charge has failed.
    """

    ref: str
    state: Literal["new", "active", "ending", "ended"]
    #: References of its charges, oldest first: those that are paid, and those that have failed and are not paid.
    paid: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@runtime_checkable
class Subscribes(Protocol):
    """A provider that charges a customer for each period of a plan, until one of both cancels."""

    async def begin_subscription(self, order: Order, period: PeriodKind) -> Begun:
        """Begin a subscription of `order.cents` a period. `order.payment_id` is the number of the subscription."""

    async def read_subscription(self, ref: str) -> SubscriptionStatus:
        """Read the state of a subscription. Raise Overloaded if the provider does not respond."""

    async def cancel_subscription(self, ref: str, *, resume: bool = False) -> None:
        """Cancel it at the end of its period, or take that back. Safe to repeat. Raise Overloaded."""
