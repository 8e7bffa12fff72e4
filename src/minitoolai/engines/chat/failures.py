"""Translate the failures of upstreams: error responses, errors within answers, and broken exchanges.

An upstream's message is passed on only if it concerns the caller's request. It must never reveal the operator's
organization, limits, billing, keys, hosts or URLs.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import (
    ContextExceeded,
    EngineBroken,
    EngineError,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    ServiceError,
)
from minitoolai.httpclient.client import ConnectError, HttpError, HttpResponse, ReadTimeout

Json = dict[str, Any]
MAX_ERROR_BYTES = 65_536
#: Longest wait that is passed on to the caller.
LONGEST_RETRY_AFTER_S = 86_400
MAX_MESSAGE = 1000


def engine_error(error: HttpError, name: str) -> EngineError:
    """Translate a failed HTTP exchange."""
    if isinstance(error, ConnectError):
        return EngineUnavailable(f"{name} cannot be reached")
    if isinstance(error, ReadTimeout):
        return EngineTimeout(f"{name} timed out")
    return EngineBroken(f"{name} broke off its response")


async def read_error_body(response: HttpResponse) -> bytes:
    """Return the body of an error response, or b"" if it cannot be read, and close the response."""
    try:
        return await response.read(MAX_ERROR_BYTES)
    except HttpError:
        return b""
    finally:
        response.close()


def upstream_failure(status: int, retry_after: str | None, body: bytes, name: str) -> ServiceError:
    """Translate an error response."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        value = text
    fault = find_fault(value, is_error=True) or Fault()
    return _translate(fault, status, read_retry_after(retry_after), name)


def failure_in_answer(fault: Fault, name: str) -> ServiceError:
    """Translate an error that an upstream sent within a response of status 200."""
    return _translate(fault, fault.status or _status_of(fault.codes), None, name, is_in_answer=True)


# ── reading an error ──────────────────────────────────────────────────────────────────────────────────────


class Fault(msgspec.Struct, frozen=True):
    """Error reported by an upstream. `codes` are its codes and types, in lower case."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    param: str | None = None
    status: int | None = None


_CODE_FIELDS = ("code", "type", "status", "error_type", "error_code", "reason", "__type", "finish_reason")
_STATUS_FIELDS = ("status", "code", "status_code", "statusCode", "http_status_code", "error_code")
#: Objects in an error that describe it further: Azure's, Google's, OpenRouter's, and an error within an error.
_INNER_FIELDS = ("error", "innererror", "inner_error", "metadata", "details", "content_filter_result", "errors")
_MESSAGE_FIELDS = ("message", "msg", "error", "detail", "error_message", "faultstring", "status_msg", "raw", "Message")


def find_fault(value: Any, *, is_error: bool = False, is_answer: bool = False) -> Fault | None:
    """Return the error that a decoded value represents, or None if it is not an error.

    `is_error`: it is known to be an error, for example by the status of the response. `is_answer`: it has choices, so
    only a field `error` counts.
    """
    if isinstance(value, list) and value:
        # Google wraps its errors in a list.
        value = value[0]
    if not isinstance(value, dict):
        return Fault(_flat_text(value)[:MAX_MESSAGE]) if is_error else None
    for field in ("error", "errors", "fault"):
        if value.get(field):
            return _read_fault({**value, field: value[field]} if not is_answer else {field: value[field]})
    if is_answer:
        return _read_fault({"code": FAILED}) if is_error else None
    base = value.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return _read_fault(base)
    if is_error or value.get("object") == "error" or value.get("type") == "error" or value.get("detail"):
        return _read_fault(value)
    message = value.get("message") or value.get("msg")
    return _read_fault(value) if isinstance(message, str) and _looks_like_error(value) else None


def _looks_like_error(fields: Json) -> bool:
    """Return True if an object with a message has a code or another mark of an error."""
    if len(fields) == 1 or fields.get("request_id") or any(_http_status(fields.get(field)) for field in _STATUS_FIELDS):
        return True
    if fields.get("code") and str(fields["code"]).lower() not in ("200", "ok", "success"):
        return True
    kinds = " ".join(str(fields.get(field)).lower() for field in ("type", "status", "error_type", "__type"))
    return any(word in kinds for word in ("error", "exception", "fail", "fault"))


#: Code of a fault that only a finish reason reports.
FAILED = "error"


def _read_fault(fields: Json) -> Fault:
    """Collect codes and the first message from an error and the objects in it, at most four levels deep."""
    message, param, status, codes = "", None, None, set[str]()
    for inner in _levels(fields, 4):
        for field in _CODE_FIELDS:
            code = inner.get(field)
            if isinstance(code, str | int) and not isinstance(code, bool):
                codes.add(str(code)[:100].lower())
        for field in _STATUS_FIELDS:
            status = status or _http_status(inner.get(field))
        if isinstance(inner.get("content_filter_result"), dict):
            codes.add("content_filter")
        message = message or next((text for field in _MESSAGE_FIELDS if (text := _message_text(inner.get(field)))), "")
        if param is None and isinstance(inner.get("param"), str):
            param = inner["param"][:100]
    return Fault(message[:MAX_MESSAGE], frozenset(codes), param, status)


def _levels(fields: Json, depth: int) -> Iterator[Json]:
    # The innermost error has the best message: `{"message": "failed", "error": {"message": "why"}}` is rare, but
    # `{"error": {...}}` around it is the rule.
    for field in ("error", "fault"):
        inner = fields.get(field)
        if isinstance(inner, dict) and depth:
            yield from _levels(inner, depth - 1)
    yield fields
    if not depth:
        return
    for field in _INNER_FIELDS[1:]:
        inner = fields.get(field)
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                yield from _levels(one, depth - 1)


def _message_text(value: Any) -> str:
    """Return a message that is a text, or FastAPI's list of details."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        found = []
        for item in value[:8]:
            if isinstance(item, str):
                found.append(item)
            elif isinstance(item, dict) and isinstance(item.get("msg") or item.get("message"), str):
                place = item.get("loc")
                names = [str(name) for name in place if name != "body"] if isinstance(place, list) else []
                found.append(": ".join([*([".".join(names)] if names else []), item.get("msg") or item["message"]]))
        return "; ".join(found)
    return ""


def _flat_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)[:MAX_MESSAGE]


def _http_status(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value, re.ASCII):
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else None


#: Part of a code or type → status, for errors within an answer that name none.
_STATUSES = (
    ("rate_limit", 429),
    ("ratelimit", 429),
    ("throttl", 429),
    ("too_many_requests", 429),
    ("quota", 429),
    ("resource_exhausted", 429),
    ("overloaded", 503),
    ("unavailable", 503),
    ("timeout", 504),
    ("authentication", 401),
    ("permission", 403),
    ("invalid_request", 400),
    ("invalid_argument", 400),
    ("badrequest", 400),
    ("bad_request", 400),
    ("validation", 422),
)


def _status_of(codes: frozenset[str]) -> int:
    return next((status for part, status in _STATUSES if any(part in code for code in codes)), 500)


# ── errors for the caller ─────────────────────────────────────────────────────────────────────────────────

CONTENT_FILTER = "content_filter"
_FILTER_CODES = frozenset(
    ("content_filter", "content_filter_error", "content_policy_violation", "responsibleaipolicyviolation", "flagged")
    + ("data_inspection_failed", "datainspectionfailed", "content_filtered", "sensitive", "1301", "moderation_blocked")
    + ("safety", "prohibited_content", "prohibited_content_error", "content_moderation", "guardrail_intervened")
)
_FILTER_WORDS = re.compile(
    r"content management policy|content[ _]filter|content policy|flagged (?:as|by|for)|(?:was|been) flagged"
    r"|inappropriate content|usage policies|violat\w+ (?:our|the) (?:usage|safety|content)|responsible ai"
    r"|safety (?:system|filter)"
    r"|敏感|不安全",
    re.IGNORECASE,
)
_CONTEXT_CODES = frozenset(
    ("context_length_exceeded", "context_window_exceeded", "exceed_context_size_error", "exceed_context_size")
    + ("context_length_exceeded_error", "prompt_too_long", "max_context_length_exceeded", "input_too_long")
)
_CONTEXT_WORDS = re.compile(
    r"(?:maximum|max|model'?s?|available|total) (?:allowed )?(?:context|prompt|sequence|input)[ -]"
    r"(?:length|size|window)"
    r"|context (?:length|window|size)|prompt (?:is )?too (?:long|large)|input (?:is )?too long"
    r"|exceeds? the (?:maximum|max|model'?s?) (?:number of |input )?(?:tokens|token count|context)"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be|`?inputs`? must have less than|range of input length should be"
    r"|too large for model with \d+ maximum|reduce the length of (?:the )?(?:messages|your prompt|the prompt)"
    r"|input token count .{0,40}exceeds|longer than the maximum model length|too many (?:input|total) tokens",
    re.IGNORECASE,
)
#: Codes about the caller's request that are passed on as they are.
REQUEST_CODES = {
    "unsupported_parameter": "The model that serves the request does not support this field.",
    "unsupported_value": "The model that serves the request does not support this value of the field.",
    "unknown_parameter": "The model that serves the request does not know this field.",
    "missing_required_parameter": "A field that the model needs is missing.",
    "invalid_value": "The value of the field is invalid for the model that serves the request.",
    "invalid_type": "The value of the field has the wrong type.",
    "invalid_prompt": "The prompt was refused by the model's provider.",
    "invalid_image_url": "The image could not be fetched from its URL.",
    "invalid_image_format": "The image has a format that the model does not accept.",
    "image_parse_error": "The image could not be read.",
    "invalid_base64": "The data of an image is not base64.",
    "invalid_function_parameters": "The parameters of a tool are not a valid schema.",
    "invalid_json_schema": "The schema of the response is not valid.",
    "json_validate_failed": "The model did not produce JSON of the requested form.",
    "tool_use_failed": "The model did not produce a valid call of a tool.",
    "string_above_max_length": "The text is longer than the limit.",
    "array_above_max_length": "The list is longer than the limit.",
    "integer_above_max_value": "The number is above its maximum.",
    "integer_below_min_value": "The number is below its minimum.",
    "decimal_above_max_value": "The number is above its maximum.",
    "decimal_below_min_value": "The number is below its minimum.",
}
#: Codes about the operator's account with the upstream, of any status.
_OPERATOR_CODES = re.compile(
    r"quota|billing|balance|credit|payment|api_?key|account|organization|subscription|unauthorized|unauthenticated"
    r"|authentication|permission|access_?denied|access_?terminated|arrearage|forbidden"
)
_MODEL_CODES = frozenset(("model_not_found", "deploymentnotfound", "model_not_available", "modelnotfound"))
#: Words about the operator's account, outside of quotation marks: within them are names from the request, such as those
#: of its schemas. A message with one of them is not passed on at all.
_OPERATOR_WORDS = re.compile(
    r"organi[sz]ation|\bbill(?:ing|ed)?\b|\bquota|\bcredits?\b|\bbalance\b|\bpayments?\b|\bsubscri(?:be|ption)"
    r"|\b(?:your|current|this|free|paid) (?:plan|tier|project|team|account|workspace|tenant)|\bupgrade\b"
    r"|\baccount (?:is|has|balance|with|does|was)|\bprojects? (?:does|is|has|with|must)|\btenant\b|\bdeployments?\b"
    r"|\b(?:api|access|secret|private|auth\w*|your|the provided|incorrect|invalid)[ _-]?(?:api[ _-]?)?keys?\b"
    r"|\b(?:access|auth\w*|bearer|api|secret)[ _-]tokens?\b|\bcredentials?\b|\bpasswords?\b|\bIAM\b"
    r"|rate[ _-]?limit|per (?:min|minute|day|hour|month)\b|\b[TR]P[MDS]\b|too many requests"
    r"|\bconcurren\w+ (?:request|limit)|traceback",
    re.IGNORECASE,
)
#: Names of the operator's account, keys and files, also in quotation marks.
_OPERATOR_NAMES = re.compile(
    r"\borg[-_]\w|\bproj[-_]\w|\bsk-\w|\barn:|\bbearer \w|\bFile \"|/(?:home|usr|app|opt|var|root|srv|mnt|data|etc)/",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'[^']{0,200}'|\"[^\"]{0,200}\"|`[^`]{0,200}`")
#: Addresses. A sentence with one of them is left out.
_ADDRESS = re.compile(
    r"://|\bwww\.|\b\d{1,3}(?:\.\d{1,3}){3}\b|\blocalhost\b|\[[0-9a-f:]{3,}\]|\w@\w|\w:\d{2,5}\b"
    r"|\w\.(?:com|net|org|io|ai|dev|cloud|local|internal|lan|corp|svc|cluster|cn|eu|de|fr|tr|uk|co|app|xyz)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")


def is_about_operator(message: str) -> bool:
    """Return True if a message mentions the operator's account, limits, keys or files."""
    return bool(_OPERATOR_NAMES.search(message) or _OPERATOR_WORDS.search(_QUOTED.sub("", message)))


def words_for_caller(message: str, name: str = "") -> str:
    """Return the sentences of an upstream's message that may be passed on; empty if none may.

    A sentence that names the supplier is left out: `name` is the label of the engine.
    """
    message = message[:MAX_MESSAGE].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").strip()
    if message.startswith(("<", "{", "[")) or is_about_operator(message):
        return ""
    sentences = [part.strip() for part in _SENTENCE_END.split(message) if part.strip()]
    betrays = name.betrays if isinstance(name, EngineLabel) else None
    passed = (sentence for sentence in sentences if not _ADDRESS.search(sentence))
    return " ".join(sentence for sentence in passed if betrays is None or not betrays(sentence))


def _translate(fault: Fault, status: int, wait_s: int | None, name: str, *, is_in_answer: bool = False) -> ServiceError:
    codes = fault.codes
    words = words_for_caller(fault.message, name)
    is_refusal = status in (400, 403, 404, 413, 415, 422, 451)
    if codes & _FILTER_CODES or (is_refusal and _FILTER_WORDS.search(fault.message)):
        return EngineRefused(
            words or "The request was refused by the content filter of the model's provider.",
            param=fault.param,
            code=CONTENT_FILTER,
        )
    if status not in (401, 402, 403, 407, 429) and (
        codes & _CONTEXT_CODES or (status in (400, 413, 422) and _CONTEXT_WORDS.search(fault.message))
    ):
        return ContextExceeded(
            words or "The prompt and the output together are longer than the model's context.", param="messages"
        )
    if status == 429:
        # The message concerns the operator's limits, even if it quotes the request.
        return EngineRateLimited(
            f"{name} has reached its rate limit; try again later",
            retry_after_s=wait_s or 5,
            # Without Retry-After, the limit may concern only this request.
            rests_model=wait_s is not None,
            is_size=is_about_size(f"{' '.join(codes)} {fault.message}"),
        )
    is_fault_of_operator = bool(codes & _MODEL_CODES) or any(_OPERATOR_CODES.search(code) for code in codes)
    if is_refusal and status not in (403, 451) and not is_fault_of_operator:
        code = next((code for code in REQUEST_CODES if code in codes), None)
        param = fault.param
        if not words and code is None and is_about_operator(fault.message):
            return EngineError(f"{name} cannot serve requests now")
        return EngineRefused(words or f"{name} refused the request without a reason.", param=param, code=code)
    if status in (503, 529):
        return Overloaded(f"{name} is overloaded; retry in a moment", retry_after_s=wait_s or 2)
    if status in (408, 504):
        return EngineTimeout(f"{name} timed out (status {status})")
    # 401 and 403 concern the operator's key: the caller cannot fix it and should see no details.
    if is_in_answer:
        return EngineError(f"{name} reported an error and ended its answer")
    if status == 401 or (status == 403 and concerns_key(fault.message)):
        return EngineUnavailable(f"{name} failed with status {status}; nothing was charged")
    return EngineError(f"{name} failed with status {status}; nothing was charged")


#: Messages of servers that one request alone is too large for a limit per minute.
_TOO_LARGE = re.compile(
    r"too (?:large|long|big|many (?:input |prompt )?tokens)|must be reduced|reduce the (?:length|size|number)|"
    r"request (?:would )?exceed|(?:exceeds|above|over) (?:the |your )?max|request_too_large|tokens_limit_reached",
    re.IGNORECASE,
)
_LIMIT_AND_REQUESTED = re.compile(
    r"limit\D{0,12}(\d[\d,]*).{0,60}?requested\D{0,12}(\d[\d,]*)", re.IGNORECASE | re.DOTALL
)
_OF_THE_REQUEST = re.compile(r"moderation|flagged|content|policy|prompt", re.IGNORECASE)


def is_about_size(text: str) -> bool:
    """Return True if one request alone is too large for a rate limit: smaller ones would pass."""
    if _TOO_LARGE.search(text):
        return True
    match = _LIMIT_AND_REQUESTED.search(text)
    return match is not None and int(match[2].replace(",", "")) > int(match[1].replace(",", ""))


def concerns_key(message: str) -> bool:
    """Return True if a 403 concerns the operator's key, as opposed to the content of one request.

    A firewall in front of the upstream sends an HTML page; a moderation error mentions the content.
    """
    return not message.lstrip().startswith("<") and not _OF_THE_REQUEST.search(message)


# ── Retry-After ───────────────────────────────────────────────────────────────────────────────────────────

_CLOCK = SystemClock()
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)


def read_retry_after(value: str | None) -> int | None:
    """Return the seconds to wait, at most a day, or None if the header is absent or cannot be read (RFC 9110, 10.2.3).

    Accepts a fraction of a second too, as some servers send it.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        wait_s = float(text)
    else:
        try:
            wait_s = email.utils.parsedate_to_datetime(text[:64]).timestamp() - _CLOCK.now_ms() / 1000
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(math.ceil(wait_s), LONGEST_RETRY_AFTER_S) if wait_s > 0 else None
