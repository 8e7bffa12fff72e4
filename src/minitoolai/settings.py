"""One frozen object from MINITOOLAI_* variables. Secrets do not print; an unknown variable is an error."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from minitoolai.core.errors import SettingsError

PREFIX = "MINITOOLAI_"
#: What the example programs read: set in the same shell, they are none of our business.
_OF_CLIENTS = frozenset(("url", "key"))
T = TypeVar("T")


class Secret(str):
    """A string that hides itself from logs and tracebacks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def _setting(default: T, about: str, least: int = 0) -> T:
    made: T = field(default=default, metadata={"about": about, "least": least})
    return made


@dataclass(frozen=True)
class Settings:
    """Every variable, with its default and what it is for (docs/reference/settings.md is made from this)."""

    data_dir: Path = _setting(Path("data"), "Folder of the database, images and models.")
    database_url: Secret = _setting(
        Secret(""), "PostgreSQL, like postgresql://user:password@host/db; empty: a file in the data folder."
    )
    catalog: str = _setting("", "Path of the catalog; empty means the one that is shipped.")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port to listen on; 0 takes a free one.")
    workers: int = _setting(1, "Processes that serve; more than one needs PostgreSQL.")
    reuse_port: bool = _setting(False, "Listen beside another server on the same port, for a restart without a gap.")
    public_url: str = _setting("", "How clients reach this server, for links in answers.")
    secret_key: Secret = _setting(Secret(""), "Pepper of API keys; made in the data folder where absent.")
    secret_key_previous: Secret = _setting(
        Secret(""), "Secret keys of before, with commas: what was made under them goes on working."
    )
    signup: bool = _setting(True, "Whether visitors of the portal may open accounts themselves.")
    stripe_secret_key: Secret = _setting(Secret(""), "Key of a Stripe account, for payments by card; empty: none.")
    stripe_webhook_secret: Secret = _setting(
        Secret(""), "Signing secret (whsec_…) of Stripe's webhook to /webhooks/stripe."
    )
    stripe_api_url: str = _setting("", "Another address of Stripe's API, for tests.")
    tries_factor: int = _setting(
        1, "How many times more often than shipped visitors may try to sign in, up, or redeem."
    )
    smtp_url: Secret = _setting(
        Secret(""),
        "How mail is sent: smtp://user:password@host:587, smtps://…:465 or smtp+plain://…:25; empty: into the log.",
    )
    mail_from: str = _setting("", "Who writes the mail, like: MiniToolAI <hello@example.com>.")
    log_level: str = _setting("info", "debug, info, warning or error.")
    log_format: str = _setting("text", "text, or json: one object a line, with request and generation.")
    metrics_listen: str = _setting(
        "",
        "Where /metrics is answered, like 127.0.0.1:9464; several processes take the ports from there on; empty: not.",
    )
    metrics_token: Secret = _setting(Secret(""), "What a reader of /metrics must send as a Bearer token.")
    otlp_endpoint: str = _setting("", "Where traces go, by OTLP over HTTP, like http://127.0.0.1:4318; empty: nowhere.")
    otlp_headers: Secret = _setting(Secret(""), "What is sent there besides, like authorization=Bearer abc,x-tenant=7.")
    trace_ratio: float = _setting(1.0, "Share of requests that are traced, 0 to 1.")
    access_log: bool = _setting(False, "One line a request.")
    audit_every_s: float = _setting(60.0, "Seconds between checks of the books beside a running server.")
    llama_model: str = _setting("", "A GGUF file of yours instead of the embedded model.")
    llama_mmproj: str = _setting("", "Its eyes: the mmproj GGUF file of a model of yours that sees pictures.")
    llama_slots: int = _setting(4, "Answers the embedded model writes at once.", least=1)
    llama_queue: int = _setting(128, "Requests that may wait for the embedded model; more are a 503.")
    llama_context: int = _setting(0, "Tokens of prompt and answer together, a request; 0 takes the catalog's.")
    llama_threads: int = _setting(0, "CPU threads of the embedded model; 0 takes all cores.")
    voices_dir: str = _setting("", "Folder of your voice files; empty means `voices` in the data folder.")
    speech_processes: int = _setting(1, "Processes that speak, for each speech engine; one core each.", least=1)
    speech_voices: int = _setting(16, "Texts that one speech engine speaks at once.", least=1)
    speech_queue: int = _setting(64, "Requests that may wait for a voice; more are a 503.")
    weights_dir: str = _setting("", "Folder of your image models' files; empty means `weights` in the data folder.")
    image_queue: int = _setting(100, "Jobs that one account may have waiting; more are a 429.")
    image_rows: int = _setting(8, "Pictures that one embedded engine draws at once.")
    image_silence_s: float = _setting(10.0, "A drawing process that is silent for so long is killed and started again.")
    image_link_ttl_s: int = _setting(3600, "Seconds for which a link to a picture is good; each poll gives a new one.")
    image_retention_days: float = _setting(30.0, "Days until a finished picture is removed; 0 keeps pictures for ever.")
    prompt_retention_days: float = _setting(
        30.0, "Days until the words of a picture that is over are forgotten: prompts, errors, webhook; 0 keeps them."
    )
    answer_retention_hours: float = _setting(
        24.0, "Hours for which an answer is kept for the same Idempotency-Key, 24 at most; 0 keeps none."
    )
    object_store: str = _setting("", "s3://bucket/prefix for pictures; empty means `objects` in the data folder.")
    s3_endpoint: str = _setting("", "Another S3 server than Amazon's, like https://s3.example.com.")
    s3_region: str = _setting("", "Region of the bucket; empty means us-east-1.")
    s3_access_key_id: str = _setting("", "Key of the bucket; empty asks the machine for its own role.")
    s3_secret_access_key: Secret = _setting(Secret(""), "Secret of that key.")
    prompt_policy: str = _setting("default", "Who judges prompts: default, moderation, or policies of your own.")
    moderation_url: str = _setting("", "Server of the policy `moderation`, up to and including /v1.")
    moderation_key: Secret = _setting(Secret(""), "Key of the moderation server.")
    moderation_model: str = _setting(
        "omni-moderation-latest", "Model of the moderation server; empty leaves the choice to it."
    )
    webhook_insecure: bool = _setting(
        False, "Webhooks may go to http and to private addresses. For development only: it opens your network."
    )
    device: str = _setting("", "Where your image models run, like cuda:0 or cpu; empty takes the first GPU there is.")
    precision: str = _setting("", "float16, bfloat16 or float32 for your image models; empty takes what suits.")
    resident_gb: float = _setting(0.0, "Gigabytes of image models kept loaded; 0 takes most of the GPU's memory.")
    gpu_pictures: int = _setting(8, "Pictures that one GPU draws together.")
    requests_per_minute: int = _setting(1000, "Requests a minute of one account; 0 is no limit.")
    tokens_per_minute: int = _setting(
        0, "Tokens a minute of one account, those that answers may have included; 0: any."
    )
    dollars_per_minute: str = _setting("", "Dollars a minute of one account, like 0.50; empty means any.")
    streams: int = _setting(0, "Answers under way at once, of one account; 0 is no limit.")
    trusted_proxies: str = _setting(
        "", "Proxies whose X-Forwarded-For is believed: addresses or networks, with commas."
    )
    first_token_timeout_s: float = _setting(60.0, "Longest wait for an engine's first token.")
    total_timeout_s: float = _setting(600.0, "Longest time for one answer.")
    drain_timeout_s: float = _setting(30.0, "How long a stopping server lets streams finish.")
    #: `MINITOOLAI_<ENGINE>_API_KEY` and `_BASE_URL` for each engine of the catalog, by engine name.
    engine_keys: Mapping[str, Secret] = field(default_factory=dict)
    engine_urls: Mapping[str, str] = field(default_factory=dict)


_FIELDS = {f.name: f for f in fields(Settings) if f.metadata}


def load_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read MINITOOLAI_*; `overrides` (the command line) win where not None. SettingsError names the variable."""
    values: dict[str, object] = {}
    keys: dict[str, Secret] = {}
    urls: dict[str, str] = {}
    for name, text in (os.environ if environment is None else environment).items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX).lower()
        if key in _OF_CLIENTS:
            continue
        if key in _FIELDS:
            values[key] = _parse(name, key, text)
        elif key.endswith("_api_key"):
            keys[key.removesuffix("_api_key")] = Secret(text)
        elif key.endswith("_base_url"):
            urls[key.removesuffix("_base_url")] = text.rstrip("/")
        else:
            raise SettingsError(f"{name} is no setting; {_nearest(name)}")
    for key, value in overrides.items():
        if value is not None:
            values[key] = _in_range(f"--{key}", key, value, value)
    return Settings(**values, engine_keys=keys, engine_urls=urls)  # type: ignore[arg-type]


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, variables(), n=2, cutoff=0.8)
    return f"did you mean {' or '.join(close)}?" if close else f"the settings are {', '.join(variables())}"


def variables() -> list[str]:
    """The names of all variables, for messages and docs."""
    return [PREFIX + name.upper() for name in _FIELDS] + [
        PREFIX + "<ENGINE>_API_KEY",
        PREFIX + "<ENGINE>_BASE_URL",
    ]


def _parse(name: str, key: str, text: str) -> object:
    default: Any = _FIELDS[key].default
    if isinstance(default, bool):
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        if text.lower() not in words:
            raise SettingsError(f"{name}={text!r} is wrong: expected 1 or 0")
        return words[text.lower()]
    if not isinstance(default, int | float):
        return type(default)(text)
    try:
        number: float = type(default)(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{name}={text!r} is wrong: expected a number like {default}")
    return _in_range(name, key, number, text)


def _in_range(name: str, key: str, value: object, text: object) -> object:
    least = _FIELDS[key].metadata["least"]
    if isinstance(value, int | float) and (value < least or (key == "port" and value > 65535)):
        right = "0 to 65535" if key == "port" else f"not below {least}"
        raise SettingsError(f"{name}={text!r} is wrong: it must be {right}")
    return value
