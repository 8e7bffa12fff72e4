"""Say in the customer's language what an error code means, for the studio and the list of codes in the guide.

A test compares the codes with those that the server sends (`http/errors.py::error_codes`).
"""

from __future__ import annotations

from minitoolai.http.errors import error_codes
from minitoolai.portal.i18n import N_

#: Codes of the command line: no customer meets them.
OPERATOR_CODES = frozenset(("email_taken",))

_TOO_LARGE = N_("This number is too large.")
_TOO_SMALL = N_("This number is too small.")
_NOT_FETCHED = N_("The file at this URL could not be fetched.")
_BAD_IMAGE = N_("This file is not a readable JPEG, PNG, WebP or GIF image.")
_DECLINED = N_("The model's provider declined this content. Reword it and try again.")
_BAD_VALUE = N_("The model does not accept this value.")
_NO_FIELD = N_("The model does not support this field.")

WORDS = {
    "account_suspended": N_("The account is suspended. Sign in to see why."),
    "address_not_allowed": N_("This key cannot be used from this IP address."),
    "array_above_max_length": N_("This list has too many entries."),
    "audio_too_long": N_("This recording is too long for the model. Send it in parts."),
    "audio_too_short": N_("This recording is shorter than a tenth of a second."),
    "body_too_large": N_("The request is too large: at most 4 MB, or 20 MB with images as data URLs."),
    "budget_exceeded": N_("The key has used up its budget. Raise the budget, or use another key."),
    "cancelled": N_("The job was cancelled. Nothing was charged."),
    "client_left": N_("The connection was closed. You were charged only for what had been generated."),
    "content_filter": _DECLINED,
    "content_policy": N_("This prompt is not allowed here. Nothing was charged."),
    "context_length_exceeded": N_("This is too long for the model. Shorten it, or lower the maximum output."),
    "decimal_above_max_value": _TOO_LARGE,
    "decimal_below_min_value": _TOO_SMALL,
    "expired": N_("The job waited too long in the queue and was dropped. Nothing was charged."),
    "fetch_failed": _NOT_FETCHED,
    "file_too_large": N_("This file is too large. Send it in parts, or compress it first."),
    "gone": N_("This is no longer available."),
    "head_too_large": N_("The headers of the request are too large."),
    "idempotency_in_flight": N_("The first request with this Idempotency-Key is still running. Try again in a moment."),
    "idempotency_mismatch": N_("This Idempotency-Key belongs to another request. Use a new one."),
    "idempotency_spent": N_(
        "The first request with this Idempotency-Key was charged, but its response is not stored. Use a new one."
    ),
    "image_parse_error": _BAD_IMAGE,
    "image_too_large": N_("This image has too many pixels. Send a smaller one."),
    "insufficient_balance": N_("Your balance does not cover this request. Top up, or send a smaller request."),
    "integer_above_max_value": _TOO_LARGE,
    "integer_below_min_value": _TOO_SMALL,
    "internal_error": N_("Something went wrong on our side. Try again."),
    "interrupted": N_(
        "The server was interrupted. You were charged only for what had been generated. Send the request again."
    ),
    "invalid_api_key": N_("The API key is missing, invalid or revoked."),
    "invalid_base64": N_("The image data is not valid base64."),
    "invalid_encoding": N_("The request body does not match its Content-Encoding header."),
    "invalid_file": N_("This file contains no readable audio. Export it again, for example as MP3."),
    "invalid_form": N_("The form could not be read."),
    "invalid_function_parameters": N_("The parameters of a tool are not a valid JSON schema."),
    "invalid_image": _BAD_IMAGE,
    "invalid_image_format": N_("The model does not accept this image format."),
    "invalid_image_url": _NOT_FETCHED,
    "invalid_json": N_("The body is not a valid JSON object."),
    "invalid_json_schema": N_("The response format is not a valid JSON schema."),
    "invalid_prompt": _DECLINED,
    "invalid_request": N_("A field is missing or invalid."),
    "invalid_type": N_("A field has the wrong type."),
    "invalid_value": _BAD_VALUE,
    "json_validate_failed": N_("The model did not produce the requested JSON. Try again."),
    "key_expired": N_("The API key has expired. Create a new one."),
    "language_not_supported": N_("No voice supports this language."),
    "link_expired": N_("This link has expired. Poll the job for a new one."),
    "method_not_allowed": N_("This path does not accept this HTTP method."),
    "missing_required_parameter": N_("A required field is missing."),
    "model_not_allowed": N_("This key is not allowed to use this model."),
    "model_not_found": N_("This model does not exist."),
    "not_found": N_("This does not exist, or it belongs to another account."),
    "nothing_to_speak": N_("The text contains no letters or digits to speak."),
    "overloaded": N_("The model is not available at the moment. Try again shortly, or choose another one."),
    "picture_removed": N_("The image was deleted because its retention period is over."),
    "previous_response_not_found": N_("The previous response is no longer stored."),
    "rate_limit_exceeded": N_("Too many requests. Wait a moment and try again."),
    "report_too_large": N_("This report takes too long. Choose a shorter period."),
    "request_timeout": N_("The request took too long to arrive. Send it again."),
    "storage_error": N_("The image could not be stored. Nothing was charged."),
    "string_above_max_length": N_("This text is too long."),
    "too_complex": N_("The request has too many arrays and objects."),
    "too_many_connections": N_("Too many open connections from your address. Close some and try again."),
    "tool_use_failed": N_("The model did not produce a valid tool call. Try again."),
    "unknown_parameter": _NO_FIELD,
    "unsupported_content_encoding": N_("This Content-Encoding is not supported. Use gzip, deflate or none."),
    "unsupported_media_type": N_("Send JSON, with the header Content-Type: application/json."),
    "unsupported_parameter": _NO_FIELD,
    "unsupported_value": _BAD_VALUE,
    "upstream_error": N_("The model failed. Try again, or choose another one."),
    "upstream_timeout": N_("The model took too long to respond. Try again, or choose another one."),
    "url_not_allowed": N_("This URL is not allowed. It must be public and begin with https://."),
    "voice_not_found": N_("This voice does not exist."),
}
#: Code → the page where the customer can do something about it, and the text of its button.
REMEDIES = {
    "insufficient_balance": ("/topup", N_("Top up")),
    "budget_exceeded": ("/keys", N_("Keys")),
    "key_expired": ("/keys", N_("Create a key")),
}


def customer_codes() -> list[tuple[int | None, str, str]]:
    """Return status, code and meaning (English, to translate) of each code that a customer can meet, by status."""
    return [(one.status, one.code, WORDS[one.code]) for one in error_codes() if one.code not in OPERATOR_CODES]
