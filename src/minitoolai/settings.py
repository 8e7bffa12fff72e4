"""Load settings from MINITOOLAI_* variables into one frozen object.

Secrets are hidden in logs and tracebacks. An unknown variable is an error.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from minitoolai.core.errors import SettingsError
from minitoolai.core.operator_input import why_bad_address, why_bad_key

PREFIX = "MINITOOLAI_"
#: Variables of the example client programs, ignored by the server.
_CLIENT_VARIABLES = frozenset(("url", "key"))
T = TypeVar("T")


class Secret(str):
    """String that is hidden in logs and tracebacks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def _setting(default: T, about: str, least: int = 0, choices: tuple[str, ...] = ()) -> T:
    setting: T = field(default=default, metadata={"about": about, "least": least, "choices": choices})
    return setting


@dataclass(frozen=True)
class Settings:
    """All settings with default and description (docs/reference/settings.md is generated from this)."""

    data_dir: Path = _setting(Path("data"), "Folder for the database, images and models.")
    database_url: Secret = _setting(
        Secret(""),
        "PostgreSQL address, like postgresql://user:password@host/db. Empty: SQLite file in the data folder.",
    )
    catalog: str = _setting("", "Path of the catalog. Empty: the bundled one.")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port to listen on. 0: any free port.")
    workers: int = _setting(1, "Number of server processes. More than one requires PostgreSQL.")
    reuse_port: bool = _setting(
        False, "Share the port with another server (SO_REUSEPORT), for a restart without downtime."
    )
    public_url: str = _setting("", "URL at which clients reach this server, for links in responses.")
    secret_key: Secret = _setting(
        Secret(""), "Secret key that hashes API keys and signs links. Empty: created in the data folder."
    )
    secret_key_previous: Secret = _setting(
        Secret(""), "Previous secret keys, separated by commas. API keys and links made with them stay valid."
    )
    stand_ins: str = _setting(
        "demo",
        "What embedded models do for models without an engine. demo: answer under `serve --demo` only, at the model's "
        "price; sell: answer at that price; free: answer at no charge; refuse: 503. By their own names they always "
        "answer.",
        choices=("demo", "sell", "free", "refuse"),
    )
    signup: bool = _setting(True, "Whether visitors of the portal may sign up.")
    signup_credit: str = _setting(
        "", "Dollars of credit for each new account that signs up, such as 1.00, once per mailbox. Empty: none."
    )
    admin_second_factor: bool = _setting(
        False, "Whether admins of the portal must have a second factor (an authenticator app or a passkey)."
    )
    user_second_factor: bool = _setting(False, "Whether all users of the portal must have a second factor.")
    second_factor_reset_hours: int = _setting(
        72,
        "Hours between the confirmed request of a user to remove a lost second factor and its removal. 0: only the "
        "operator removes second factors.",
    )
    password_signin: bool = _setting(
        True, "Whether users may sign in with a password. Off: only with passkeys and with the providers below."
    )
    oidc_issuer: str = _setting("", "Issuer of OpenID Connect sign-ins (https://…). Empty: none.")
    oidc_client_id: str = _setting("", "Client ID at that issuer.")
    oidc_client_secret: Secret = _setting(Secret(""), "Client secret at that issuer. Empty: a public client.")
    oidc_name: str = _setting("Single sign-on", "Name of that issuer on its button.")
    github_client_id: str = _setting("", "Client ID of an OAuth app of GitHub, for sign-ins. Empty: none.")
    github_client_secret: Secret = _setting(Secret(""), "Client secret of that OAuth app.")
    github_url: str = _setting("", "URL of a GitHub Enterprise server. Empty: github.com.")
    stripe_secret_key: Secret = _setting(
        Secret(""), "Secret key of a Stripe account, for card payments. Empty: no card payments."
    )
    stripe_webhook_secret: Secret = _setting(
        Secret(""), "Signing secret (whsec_…) of the Stripe webhook to /webhooks/stripe."
    )
    stripe_api_url: str = _setting("", "Alternative URL of the Stripe API, for tests.")
    epay_url: str = _setting("", "URL of an EPay-style payment provider, up to /submit.php. Empty: none.")
    epay_merchant: str = _setting("", "Merchant number (pid) at the EPay-style provider.")
    epay_key: Secret = _setting(Secret(""), "Key that signs orders at the EPay-style provider.")
    epay_type: str = _setting("", "Payment method (type), like alipay or wxpay. Empty: the customer chooses there.")
    epay_title: str = _setting("Alipay", "Name of the payment method, as customers read it.")
    epay_currency: str = _setting("CNY", "Currency in which customers pay at the EPay-style provider.")
    epay_rate: str = _setting("7.20", "Price of a dollar in that currency. 1 for USD.")
    payment_providers: str = _setting(
        "", "More payment providers, separated by commas: entry points of installed packages."
    )
    pdf_font: str = _setting(
        "", "TrueType file with letters that the PDF of an invoice needs beside Latin, Greek and Cyrillic. Empty: none."
    )
    tries_factor: int = _setting(1, "Multiplier for the number of attempts to sign in, sign up and redeem vouchers.")
    smtp_url: Secret = _setting(
        Secret(""),
        "SMTP server: smtp://user:password@host:587, smtps://…:465 or smtp+plain://…:25. Empty: log e-mails.",
    )
    mail_from: str = _setting("", "Sender of e-mails, like: MiniToolAI <hello@example.com>.")
    log_level: str = _setting("info", "debug, info, warning or error.")
    log_format: str = _setting("text", "text or json: one object per line, with request and generation.")
    metrics_listen: str = _setting(
        "",
        "Address of /metrics, like 127.0.0.1:9464. Further processes use the following ports. Empty: no metrics.",
    )
    metrics_token: Secret = _setting(Secret(""), "Bearer token required to read /metrics.")
    otlp_endpoint: str = _setting("", "OTLP/HTTP endpoint for traces, like http://127.0.0.1:4318. Empty: no tracing.")
    otlp_headers: Secret = _setting(
        Secret(""), "Additional headers for the OTLP endpoint, like authorization=Bearer abc,x-tenant=7."
    )
    trace_ratio: float = _setting(1.0, "Share of requests that are traced, 0 to 1.")
    access_log: bool = _setting(False, "Log one line per request.")
    audit_every_s: float = _setting(60.0, "Seconds between audits of the ledger in a running server.")
    max_shortfall: str = _setting(
        "1.00",
        "Dollars that an engine may cost beyond its holds in a day before the audit raises an alert. Empty: no limit.",
    )
    models_dir: str = _setting("", "Folder of chat models from `minitoolai fetch`. Empty: `models` in the data folder.")
    demo_model: str = _setting(
        "large",
        "Chat model of `serve --demo`. large: fetch one of 1.1 GB in the background; small: 98 MB if none is here.",
    )
    llama_model: str = _setting("", "GGUF file to use instead of the embedded model.")
    llama_mmproj: str = _setting("", "The mmproj GGUF file of a model that accepts images (vision).")
    llama_slots: int = _setting(
        0, "Concurrent responses of the embedded model. 0: as many as its memory allows, at most 4."
    )
    llama_queue: int = _setting(128, "Queue length of the embedded model. More requests get a 503.")
    llama_context: int = _setting(
        0, "Context length in tokens (prompt and output). 0: as in the catalog, or less if memory is short."
    )
    llama_threads: int = _setting(0, "CPU threads of the embedded model. 0: all cores.")
    memory_mb: int = _setting(
        0, "Memory in MB that embedded models are sized for. 0: that of the machine or of its control group."
    )
    voices_dir: str = _setting("", "Folder of voice files. Empty: `voices` in the data folder.")
    speech_processes: int = _setting(1, "Processes per speech engine, each using one core.", least=1)
    speech_voices: int = _setting(16, "Concurrent texts per speech engine.", least=1)
    speech_queue: int = _setting(64, "Queue length for speech. More requests get a 503.")
    audio_upload_mb: int = _setting(25, "Largest file to transcribe, in MB.", least=1)
    transcriptions: int = _setting(2, "Concurrent recordings per embedded transcription engine.", least=1)
    transcription_queue: int = _setting(32, "Queue length for transcription. More requests get a 503.")
    transcription_threads: int = _setting(0, "CPU threads of embedded transcription. 0: half of the cores.")
    weights_dir: str = _setting("", "Folder of image model weights. Empty: `weights` in the data folder.")
    image_queue: int = _setting(100, "Queued jobs per account. More get a 429.")
    image_queue_without_workers: bool = _setting(
        False,
        "Queue image jobs that no process can run yet, and say so in the answer: for workers that start when jobs"
        " wait. Otherwise they get a 503.",
    )
    image_upload_mb: int = _setting(20, "Largest image to edit, in MB.", least=1)
    image_rows: int = _setting(8, "Images that one embedded engine generates at once.")
    image_silence_s: float = _setting(
        10.0, "Seconds without a heartbeat after which an image process is killed and restarted."
    )
    image_link_ttl_s: int = _setting(
        3600, "Seconds for which a link to an image is valid. Each poll returns a new link."
    )
    image_retention_days: float = _setting(30.0, "Days until a finished image is deleted. 0: never.")
    prompt_retention_days: float = _setting(
        30.0, "Days until prompt, error and webhook URL of a finished image job are erased. 0: never."
    )
    answer_retention_hours: float = _setting(
        24.0, "Hours for which a response is stored for its Idempotency-Key, at most 24. 0: not stored."
    )
    response_retention_hours: float = _setting(
        24.0, "Hours for which a response of /v1/responses is stored, at most 720. 0: not stored."
    )
    response_store_mb: int = _setting(
        256, "Megabytes of stored responses per account. Beyond it, the oldest are deleted.", least=1
    )
    archive_after_months: int = _setting(
        0, "Months after which usage moves from the database to compressed files in the object store. 0: never."
    )
    object_store: str = _setting(
        "", "s3://bucket/prefix for images and archived days. Empty: `objects` in the data folder."
    )
    s3_endpoint: str = _setting("", "URL of an S3-compatible server, like https://s3.example.com. Empty: Amazon S3.")
    s3_region: str = _setting("", "Region of the bucket. Empty: us-east-1.")
    s3_access_key_id: str = _setting("", "Access key ID of the bucket. Empty: the role of the machine.")
    s3_secret_access_key: Secret = _setting(Secret(""), "Secret access key of the bucket.")
    marks: bool = _setting(
        True, "Mark images and speech as generated, as Article 50 of the EU AI Act requires: on or off."
    )
    marks_certificate: str = _setting(
        "", "PEM file of the certificate chain that signs images (C2PA). Empty: self-made in the data folder."
    )
    marks_key: str = _setting("", "PEM file of the private key (P-256) of that certificate.")
    prompt_policy: str = _setting("default", "Prompt policy: default, moderation, or your own policies.")
    moderation_url: str = _setting("", "URL of the moderation server, up to and including /v1.")
    moderation_key: Secret = _setting(Secret(""), "API key of the moderation server.")
    moderation_model: str = _setting("omni-moderation-latest", "Model of the moderation server. Empty: its default.")
    webhook_insecure: bool = _setting(
        False, "Allow webhooks to http and to private addresses. For development only: it exposes your network."
    )
    device: str = _setting("", "Device of image models, like cuda:0 or cpu. Empty: the first GPU.")
    precision: str = _setting("", "float16, bfloat16 or float32 for image models. Empty: chosen automatically.")
    resident_gb: float = _setting(0.0, "Gigabytes of image models to keep loaded. 0: most of the GPU memory.")
    gpu_pictures: int = _setting(8, "Images that one GPU generates in one batch.")
    requests_per_minute: int = _setting(
        1000,
        "Requests per minute and account. Without an API key, a tenth of it may fail per minute and client address. "
        "0: no limit.",
    )
    tokens_per_minute: int = _setting(0, "Tokens per minute and account, including the maximum output. 0: no limit.")
    dollars_per_minute: str = _setting("", "Dollars per minute and account, like 0.50. Empty: no limit.")
    streams: int = _setting(0, "Concurrent responses per account. 0: no limit.")
    trusted_proxies: str = _setting(
        "", "Proxies whose X-Forwarded-For is trusted: addresses or networks, separated by commas."
    )
    connections_per_address: int = _setting(
        1000,
        "Open connections per client address (IPv6: per /64) and process. More are closed with a 429. Trusted proxies "
        "and private addresses are not limited. 0: no limit.",
    )
    unknown_fields: str = _setting(
        "drop",
        "Request fields that the API does not document: drop (named in x-dropped-fields) or refuse.",
        choices=("drop", "refuse"),
    )
    first_token_timeout_s: float = _setting(
        60.0,
        "Timeout for the first token of a stream: seconds without an event of a choice. Also for the first sound of "
        "speech as events.",
        least=1,
    )
    total_timeout_s: float = _setting(
        600.0, "Timeout for one response, streamed or whole. The only timeout of a whole response.", least=1
    )
    drain_timeout_s: float = _setting(30.0, "Seconds that a stopping server waits for running streams.")
    #: `serve --demo`.
    is_demo: bool = False
    #: `worker --ray`: the address of the Ray cluster.
    ray_address: str = ""
    #: `MINITOOLAI_<ENGINE>_API_KEY` and `_BASE_URL` of each engine of the catalog, by engine name.
    engine_keys: Mapping[str, Secret] = field(default_factory=dict)
    engine_urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def stand_in_policy(self) -> Literal["sell", "free", "refuse"]:
        """Return what stand-ins do in this process."""
        if self.stand_ins == "demo":
            return "sell" if self.is_demo else "refuse"
        return cast(Literal["sell", "free", "refuse"], self.stand_ins)


#: Keys that are sent in a header, and addresses of servers. Copied ones often end in a line break.
_KEYS = (
    "stripe_secret_key", "stripe_webhook_secret", "oidc_client_secret", "github_client_secret",
    "epay_key", "moderation_key", "s3_access_key_id",
    "s3_secret_access_key", "metrics_token",
)  # fmt: skip
_CHECKED_ADDRESSES = ("moderation_url", "stripe_api_url", "epay_url", "s3_endpoint")
#: The last two are checked where they are used.
_ADDRESSES = (*_CHECKED_ADDRESSES, "public_url", "otlp_endpoint")
_FIELDS = {f.name: f for f in fields(Settings) if f.metadata}


def load_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Load settings from MINITOOLAI_* variables, overridden by the command line where not None.

    Raise SettingsError, which names the variable.
    """
    values: dict[str, object] = {}
    keys: dict[str, Secret] = {}
    urls: dict[str, str] = {}
    for name, text in (os.environ if environment is None else environment).items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX).lower()
        if key in _CLIENT_VARIABLES:
            continue
        if key in _FIELDS:
            values[key] = _parse(name, key, text)
        elif key.endswith("_api_key"):
            keys[key.removesuffix("_api_key")] = Secret(text.strip())
        elif key.endswith("_base_url"):
            urls[key.removesuffix("_base_url")] = text.strip().rstrip("/")
        else:
            raise SettingsError(f"{name} is not a setting; {_suggest_variables(name)}")
    for key, value in overrides.items():
        if value is not None:
            values[key] = _in_range(f"--{key}", key, value, value)
    return Settings(**values, engine_keys=keys, engine_urls=urls)  # type: ignore[arg-type]


def _suggest_variables(name: str) -> str:
    close = difflib.get_close_matches(name, variables(), n=2, cutoff=0.8)
    return f"did you mean {' or '.join(close)}?" if close else f"the settings are {', '.join(variables())}"


def variables() -> list[str]:
    """Return the names of all variables, for messages and docs."""
    return [PREFIX + name.upper() for name in _FIELDS] + [
        PREFIX + "<ENGINE>_API_KEY",
        PREFIX + "<ENGINE>_BASE_URL",
    ]


def _parse(name: str, key: str, text: str) -> object:
    default: Any = _FIELDS[key].default
    if isinstance(default, bool):
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False, "": False}
        if text.lower() not in words:
            raise SettingsError(f"{name}={text!r} is invalid: expected 1 or 0")
        return words[text.lower()]
    text = text.strip() if key in (*_KEYS, *_ADDRESSES) else text
    why_bad = why_bad_key(text) if key in _KEYS else None
    if key in _CHECKED_ADDRESSES and text:
        why_bad = why_bad_address(text)
    if why_bad is not None:
        raise SettingsError(f"{name} is wrong: {why_bad}")
    choices = _FIELDS[key].metadata["choices"]
    if choices and text not in choices:
        raise SettingsError(f"{name}={text!r} is invalid: expected {' or '.join(choices)}")
    if not isinstance(default, int | float):
        return type(default)(text)
    try:
        number: float = type(default)(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{name}={text!r} is invalid: expected a number like {default}")
    return _in_range(name, key, number, text)


def _in_range(name: str, key: str, value: object, text: object) -> object:
    least = _FIELDS[key].metadata["least"]
    if isinstance(value, int | float) and (value < least or (key == "port" and value > 65535)):
        allowed = "0 to 65535" if key == "port" else f"at least {least}"
        raise SettingsError(f"{name}={text!r} is invalid: it must be {allowed}")
    return value
