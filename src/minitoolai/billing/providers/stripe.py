"""Take card payments through Stripe: Checkout sessions, and charges of saved cards for automatic top-ups.

Webhooks only say which payment to read: payments, refunds and disputes are always read from Stripe's API. See
docs/payments.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from minitoolai.billing.providers.protocol import (
    NANO_PER_CENT,
    Begun,
    Declined,
    Incoming,
    Order,
    PaymentStatus,
    Report,
    SavedMethod,
    SubscriptionStatus,
)
from minitoolai.core.errors import InvalidRequest, Overloaded
from minitoolai.core.models import Payment
from minitoolai.core.plans import PeriodKind
from minitoolai.settings import Settings

if TYPE_CHECKING:
    import stripe

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Host of Stripe's payment form.
STRIPE_HOST = "https://checkout.stripe.com"
#: Reject webhooks with an older signature.
SIGNATURE_TOLERANCE_S = 300
#: States of a refund that did not happen: the money is back in the operator's Stripe balance.
UNDONE = ("failed", "canceled")
#: States of a payment that did not happen. The session of a failed debit stays "complete".
GIVEN_UP = ("requires_payment_method", "canceled")
#: Events about payments that are in a final state for us, so that no other poll reads them.
LATER_EVENTS = (
    "charge.refunded", "charge.refund.updated", "refund.updated", "refund.failed", "charge.dispute.created",
    "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated", "charge.dispute.closed",
)  # fmt: skip
#: States of a subscription. A charge that failed is tried again by Stripe; if that succeeds, the plan begins again.
SUBSCRIPTIONS: dict[str, Literal["new", "active", "ending", "ended"]] = {
    "incomplete": "new", "trialing": "active", "active": "active", "past_due": "ending", "unpaid": "ending",
    "paused": "ending", "canceled": "ended", "incomplete_expired": "ended",
}  # fmt: skip
#: States of an invoice that is not paid.
UNPAID = ("open", "uncollectible")
#: Dispute states in which Stripe withdraws the money.
WITHDRAWN = ("needs_response", "under_review", "lost")


class StripeProvider:
    """Client of one Stripe account. Its library is synchronous, so calls run in a small thread pool."""

    name = "stripe"
    title = "Pay by card"
    confirmation = "ok\n"
    price_of_dollar = ""
    rereads_paid = False

    def __init__(self, *, key: str, webhook_secret: str, api_url: str = "") -> None:
        self._key = key
        self._webhook_secret = webhook_secret
        self._api_url = api_url
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="stripe")
        self._stripe_client: stripe.StripeClient | None = None
        self.form_action = api_url or STRIPE_HOST

    # ── checkout ──────────────────────────────────────────────────────────────────────────────

    async def begin(self, order: Order) -> Begun:
        """Create a checkout session. `done_url` gets the session's ID as its query."""
        payment_reference = {"payment": str(order.payment_id)}
        price = {"currency": "usd", "unit_amount": order.cents, "product_data": {"name": order.product}}
        params = self._session_params(order) | {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "payment_intent_data": {"metadata": payment_reference},
            "customer_email": order.email,
        }
        options: Any = {"idempotency_key": f"payment-{order.payment_id}"}
        session = await self._call(lambda client: client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        return Begun(str(session.url), session.id)

    def _session_params(self, order: Order) -> dict[str, Any]:
        return {
            "client_reference_id": str(order.payment_id),
            "metadata": {"payment": str(order.payment_id)},
            "success_url": f"{order.done_url}?session={{CHECKOUT_SESSION_ID}}",
            "cancel_url": order.back_url,
            "locale": "pt-BR" if order.lang == "pt" else order.lang,
        }

    # ── saved cards ───────────────────────────────────────────────────────────────────────────

    async def begin_setup(self, order: Order) -> str:
        """Create a checkout session that saves a payment method without charging it."""
        params = self._session_params(order) | {
            "mode": "setup",
            "currency": "usd",
            "customer_creation": "always",
            "customer_email": order.email,
        }
        options: Any = {"idempotency_key": f"setup-{order.payment_id}"}
        session = await self._call(lambda client: client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        return str(session.url)

    async def read_setup(self, session_id: str, payment_id: int) -> SavedMethod | None:
        """Return the method saved in a session, None if it is not complete or was made for another number."""
        expand: Any = {"expand": ["setup_intent.payment_method"]}
        session = await self._call(lambda client: client.v1.checkout.sessions.retrieve(session_id, expand))
        intent: Any = session.setup_intent
        if session.mode != "setup" or session.client_reference_id != str(payment_id) or session.status != "complete":
            return None
        method: Any = None if intent is None or isinstance(intent, str) else intent.payment_method
        if method is None or isinstance(method, str) or not session.customer:
            return None
        customer = session.customer if isinstance(session.customer, str) else session.customer.id
        details = getattr(method, method.type, None)
        name = f"{getattr(details, 'brand', method.type)} …{getattr(details, 'last4', '')}".rstrip(" …")
        return SavedMethod(customer, method.id, name)

    async def charge(self, payment_id: int, cents: int, customer: str, method: str, product: str) -> str:
        """Charge a saved card off-session. Stripe makes one charge per payment, however often this is repeated."""
        import stripe

        params: Any = {
            "amount": cents, "currency": "usd", "customer": customer, "payment_method": method, "off_session": True,
            "confirm": True, "description": product, "metadata": {"payment": str(payment_id)},
        }  # fmt: skip
        options: Any = {"idempotency_key": f"payment-{payment_id}"}

        def create(client: stripe.StripeClient) -> str:
            try:
                return client.v1.payment_intents.create(params, options).id
            except stripe.CardError as error:
                raise Declined(str(error.user_message or error.code or "declined")) from error

        return await self._call(create)

    # ── subscriptions ─────────────────────────────────────────────────────────────────────────

    async def begin_subscription(self, order: Order, period: PeriodKind) -> Begun:
        """Create a checkout session of mode `subscription`."""
        number = {"subscription": str(order.payment_id)}
        price = {
            "currency": "usd", "unit_amount": order.cents, "product_data": {"name": order.product},
            "recurring": {"interval": period},
        }  # fmt: skip
        params = self._session_params(order) | {
            "mode": "subscription",
            "metadata": number,
            "line_items": [{"price_data": price, "quantity": 1}],
            "subscription_data": {"metadata": number},
            "customer_email": order.email,
        }
        options: Any = {"idempotency_key": f"subscription-{order.payment_id}"}
        session = await self._call(lambda client: client.v1.checkout.sessions.create(params, options))  # type: ignore[arg-type]
        return Begun(str(session.url), session.id)

    async def read_subscription(self, ref: str) -> SubscriptionStatus:
        """Read a subscription and its invoices. `ref` is the checkout session until the customer has paid."""
        if ref.startswith("cs_"):
            session = await self._call(lambda client: client.v1.checkout.sessions.retrieve(ref))
            number = session.subscription
            if not number:
                return SubscriptionStatus(ref, "ended" if session.status == "expired" else "new")
            ref = number if isinstance(number, str) else number.id
        subscription = await self._call(lambda client: client.v1.subscriptions.retrieve(ref))
        params: Any = {"subscription": ref, "limit": 100}
        found = await self._call(lambda client: list(client.v1.invoices.list(params).auto_paging_iter()))
        invoices = sorted(found, key=lambda invoice: invoice.created)
        state = SUBSCRIPTIONS.get(subscription.status, "ending")
        if state == "active" and (subscription.cancel_at_period_end or _field(subscription, "cancel_at")):
            state = "ending"
        return SubscriptionStatus(
            ref,
            state,
            tuple(str(invoice.id) for invoice in invoices if invoice.status == "paid" and invoice.amount_paid),
            tuple(str(invoice.id) for invoice in invoices if invoice.status in UNPAID and invoice.attempted),
        )

    async def cancel_subscription(self, ref: str, *, resume: bool = False) -> None:
        """Set or unset the end of a subscription with its period."""
        params: Any = {"cancel_at_period_end": not resume}
        await self._call(lambda client: client.v1.subscriptions.update(ref, params))

    # ── webhooks ──────────────────────────────────────────────────────────────────────────────────────────────

    def read_report(self, incoming: Incoming) -> Report:
        """Check the signature of a webhook."""
        import stripe

        if not self._webhook_secret.strip():
            log.error("a Stripe webhook was refused: set MINITOOLAI_STRIPE_WEBHOOK_SECRET")
            raise InvalidRequest("Webhooks are not configured.")
        signature = incoming.headers.get("stripe-signature", "")
        try:
            event = stripe.Webhook.construct_event(
                incoming.body, signature, self._webhook_secret, SIGNATURE_TOLERANCE_S
            )
        except (ValueError, stripe.SignatureVerificationError) as error:
            log.warning("a Stripe webhook has a wrong signature; check MINITOOLAI_STRIPE_WEBHOOK_SECRET")
            raise InvalidRequest(
                "The Stripe-Signature header is missing, wrong or too old.",
                param="Stripe-Signature",
            ) from error
        return _report(event)

    async def find_payment_id(self, intent: str) -> object:
        """Read our number from the metadata of a payment intent.

        Events can arrive out of order: the session event that carries the payment intent may still follow.
        """
        found = await self._call(lambda client: client.v1.payment_intents.retrieve(intent))
        return _field(found.metadata, "payment")

    async def missed_reports(self, since_s: int) -> list[Report]:
        """Return the refunds and disputes since a time from Stripe's list of events."""
        params: Any = {"types": list(LATER_EVENTS), "created": {"gte": since_s}, "limit": 100}
        events = await self._call(lambda client: list(client.v1.events.list(params).auto_paging_iter()))
        return [_report(event) for event in events]

    # ── state of a payment ───────────────────────────────────────────────────────────────────────────────────────────

    async def read_status(self, payment: Payment) -> PaymentStatus:
        """Read a checkout session or, for a charge of a saved card, its payment intent, with refunds and disputes."""
        reference = payment.provider_ref or ""
        if reference.startswith("pi_"):
            with_charge: Any = {"expand": ["latest_charge"]}
            intent: Any = await self._call(lambda client: client.v1.payment_intents.retrieve(reference, with_charge))
            paid = intent.amount_received * NANO_PER_CENT if intent.status == "succeeded" else 0
            back = await self._reversed_cents(intent, payment)
            has_failed = intent.status in (*GIVEN_UP, "requires_action")
            return PaymentStatus(
                paid, back * NANO_PER_CENT, intent.id, has_failed, "failed" if has_failed and not paid else None
            )
        if reference.startswith("in_"):
            return await self._read_invoice(reference, payment)
        expand: Any = {"expand": ["payment_intent.latest_charge"]}
        session = await self._call(lambda client: client.v1.checkout.sessions.retrieve(reference, expand))
        intent = session.payment_intent
        is_paid = session.payment_status == "paid"
        if is_paid and session.currency != "usd":
            log.error(
                "payment %d was made in %s instead of usd; not credited, credit it manually",
                payment.id,
                session.currency,
            )
            currency, charged = str(session.currency).upper(), session.amount_total
            number = intent if intent is None or isinstance(intent, str) else intent.id
            return PaymentStatus(0, 0, number, True, "currency", currency, charged)
        paid = (session.amount_total or 0) * NANO_PER_CENT if is_paid else 0
        if intent is None or isinstance(intent, str):
            return PaymentStatus(paid, 0, intent, session.status == "expired")
        back = await self._reversed_cents(intent, payment)
        is_over = _is_over(session.status, intent.status)
        has_failed = is_over and session.status == "complete" and not paid
        return PaymentStatus(paid, back * NANO_PER_CENT, intent.id, is_over, "failed" if has_failed else None)

    async def _read_invoice(self, reference: str, payment: Payment) -> PaymentStatus:
        """Read the charge of one period of a subscription."""
        with_payments: Any = {"expand": ["payments"]}
        invoice: Any = await self._call(lambda client: client.v1.invoices.retrieve(reference, with_payments))
        is_paid = invoice.status == "paid"
        number = next((one.payment.payment_intent for one in invoice.payments.data if one.status == "paid"), None)
        if is_paid and invoice.currency != "usd":
            log.error("payment %d was made in %s instead of usd; not credited", payment.id, invoice.currency)
            currency = str(invoice.currency).upper()
            return PaymentStatus(0, 0, number, True, "currency", currency, invoice.amount_paid)
        paid = invoice.amount_paid * NANO_PER_CENT if is_paid else 0
        back = 0
        if number is not None:
            with_charge: Any = {"expand": ["latest_charge"]}
            intent = await self._call(lambda client: client.v1.payment_intents.retrieve(number, with_charge))
            back = await self._reversed_cents(intent, payment)
        return PaymentStatus(paid, back * NANO_PER_CENT, number, invoice.status in ("void", "uncollectible"))

    async def _reversed_cents(self, intent: Any, payment: Payment) -> int:
        charge: Any = intent.latest_charge
        back = 0
        if charge is not None and not isinstance(charge, str):
            if charge.amount_refunded or payment.reversed:
                back += await self._call(lambda client: _refunded_cents(client, intent.id))
            if charge.disputed:
                found = await self._call(lambda client: client.v1.disputes.list({"payment_intent": intent.id}))
                back += sum(dispute.amount for dispute in found.data if dispute.status in WITHDRAWN)
        return back

    async def _call(self, request: Callable[[stripe.StripeClient], T]) -> T:
        """Call Stripe in a thread.

        Its errors become Overloaded: nothing is lost, because Stripe sends webhooks again.
        """
        import stripe

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: request(self._client()))
        except stripe.StripeError as error:
            log.error("Stripe request failed: %s", error)
            raise Overloaded("The payment provider is unavailable. Try again.", retry_after_s=30) from error

    def _client(self) -> stripe.StripeClient:
        import stripe

        if self._stripe_client is None:
            addresses: Any = {"api": self._api_url} if self._api_url else None
            self._stripe_client = stripe.StripeClient(self._key, base_addresses=addresses, max_network_retries=1)
        return self._stripe_client

    def close(self) -> None:
        """Shut down the thread pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _refunded_cents(client: stripe.StripeClient, intent: str) -> int:
    """Return the cents of all refunds that have not failed. The charge's own sum may still contain those that have."""
    refunds = client.v1.refunds.list({"payment_intent": intent, "limit": 100})
    return sum(refund.amount for refund in refunds.auto_paging_iter() if refund.status not in UNDONE)


def _is_over(session: str | None, intent: str | None) -> bool:
    """Return True if no money can arrive any more: the customer left, or a debit that takes days has failed."""
    if session == "expired":
        # A debit that was begun may still succeed.
        return intent not in ("processing", "succeeded")
    return session == "complete" and intent in GIVEN_UP


def _field(resource: Any, name: str) -> object:
    return resource.get(name) if hasattr(resource, "get") else getattr(resource, name, None)


def _number_of(resource: Any) -> str | None:
    """Return our number of a subscription from its metadata."""
    metadata: Any = _field(resource, "metadata")
    number = None if metadata is None else _field(metadata, "subscription")
    return number if isinstance(number, str) else None


def _report(event: Any) -> Report:
    """Return which payment or subscription an event of Stripe is about."""
    kind, resource = event.type, event.data.object
    if kind.startswith("checkout.session."):
        number = getattr(resource, "client_reference_id", None)
        if _field(resource, "mode") == "subscription":
            return Report(event.id, subscription=resource.id, subscription_id=str(number))
        return Report(event.id, ref=resource.id, payment_id=number if isinstance(number, str) else None)
    if kind.startswith("customer.subscription."):
        return Report(event.id, subscription=resource.id, subscription_id=_number_of(resource))
    if kind.startswith("invoice."):
        parent: Any = _field(resource, "parent")
        details: Any = None if parent is None else _field(parent, "subscription_details")
        if details is None:
            return Report(event.id)
        return Report(event.id, subscription=str(_field(details, "subscription")), subscription_id=_number_of(details))
    if kind.startswith("payment_intent."):
        return Report(event.id, intent=resource.id)
    intent = getattr(resource, "payment_intent", None) if kind.startswith(("charge.", "refund.")) else None
    return Report(event.id, intent=intent if isinstance(intent, str) else None)


def build_stripe(settings: Settings) -> StripeProvider | None:
    """Return card payments through Stripe, or None if no Stripe key is set."""
    if not settings.stripe_secret_key:
        return None
    return StripeProvider(
        key=settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_url=settings.stripe_api_url,
    )
