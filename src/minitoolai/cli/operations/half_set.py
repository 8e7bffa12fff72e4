"""Find settings that work only together and are half set: card payments, mail, and pairs of one feature."""

from __future__ import annotations

from collections.abc import Iterator

from minitoolai.settings import PREFIX, Settings

#: A setting without effect → the one that it needs.
NEEDS = {
    "mail_from": "smtp_url",
    "moderation_key": "moderation_url",
    "metrics_token": "metrics_listen",
    "otlp_headers": "otlp_endpoint",
    "s3_endpoint": "object_store",
    "s3_access_key_id": "object_store",
    "s3_secret_access_key": "object_store",
    "llama_mmproj": "llama_model",
    "oidc_client_id": "oidc_issuer",
    "oidc_client_secret": "oidc_issuer",
    "github_client_secret": "github_client_id",
    "github_url": "github_client_id",
}


def half_set(settings: Settings) -> Iterator[str]:
    """Yield `subject: what is missing, what follows; remedy` for each feature that is half set."""
    for name, needed in NEEDS.items():
        if getattr(settings, name) and not getattr(settings, needed):
            yield f"{_variable(name)}: it has no effect without {_variable(needed)}; set both, or remove it"
    for name, other in (
        ("s3_access_key_id", "s3_secret_access_key"),
        ("marks_certificate", "marks_key"),
        ("github_client_id", "github_client_secret"),
    ):
        if bool(getattr(settings, name)) != bool(getattr(settings, other)):
            yield f"{_variable(name)}: it works only together with {_variable(other)}; set both, or neither"
    yield from _payments(settings)
    if not settings.smtp_url and settings.public_url and settings.signup:
        yield (
            "mail: MINITOOLAI_SMTP_URL is not set, so customers get no link to confirm their sign-up: it is only in "
            "the server's log; set MINITOOLAI_SMTP_URL and MINITOOLAI_MAIL_FROM"
        )


def _payments(settings: Settings) -> Iterator[str]:
    key, secret = settings.stripe_secret_key, settings.stripe_webhook_secret
    if secret and not key:
        yield (
            "payments: MINITOOLAI_STRIPE_WEBHOOK_SECRET is set without MINITOOLAI_STRIPE_SECRET_KEY, so no card "
            "payments are offered; set both"
        )
    for name in ("epay_merchant", "epay_key"):
        if getattr(settings, name) and not settings.epay_url:
            yield f"payments: {_variable(name)} has no effect without MINITOOLAI_EPAY_URL; set both, or remove it"
    if settings.epay_url and not settings.public_url:
        yield (
            "payments: the EPay provider would notify this machine's local address; set "
            "MINITOOLAI_PUBLIC_URL=https://your.name"
        )
    if not key:
        return
    if not secret:
        yield (
            "payments: MINITOOLAI_STRIPE_WEBHOOK_SECRET is not set, so payments are credited when the customer returns "
            "from Stripe or within an hour, and refunds and disputes within an hour; add the webhook (docs/payments.md)"
        )
    elif not secret.startswith("whsec_"):
        yield (
            "payments: MINITOOLAI_STRIPE_WEBHOOK_SECRET does not begin with whsec_, so every webhook would be refused; "
            "copy the signing secret of the endpoint in Stripe's dashboard"
        )
    if key.startswith("pk_"):
        yield (
            "payments: MINITOOLAI_STRIPE_SECRET_KEY is a publishable key (pk_…), so every payment would fail; copy the "
            "secret key (sk_… or rk_…)"
        )
    if not settings.public_url:
        yield (
            "payments: Stripe would lead customers back to this machine's local address; set "
            "MINITOOLAI_PUBLIC_URL=https://your.name"
        )
    elif "_test_" in key[:8]:
        yield (
            "payments: MINITOOLAI_STRIPE_SECRET_KEY belongs to Stripe's test mode, so anyone can top up with a test "
            "card, without money; set the live key before you sell"
        )


def _variable(name: str) -> str:
    return PREFIX + name.upper()
