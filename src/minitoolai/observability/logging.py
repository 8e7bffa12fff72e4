"""Configure logging as text lines or JSON objects.

Both leave out the query strings of requested URLs, because they carry signatures and links from e-mails.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from minitoolai.core.errors import SettingsError
from minitoolai.core.telemetry.logs import current_request
from minitoolai.settings import Settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
#: Libraries that log whole requests at level DEBUG; limited to warnings.
VERBOSE_LIBRARIES = ("httpcore", "httpx", "stripe", "urllib3", "hpack", "PIL", "obstore", "h11")
_ACCESS = "uvicorn.access"
_ACCESS_FIELDS = ("client", "method", "path", "http_version", "status")


def set_up(settings: Settings) -> None:
    """Configure logging for the whole process, once. Raise SettingsError if the level or format is invalid."""
    level = settings.log_level.upper()
    if level not in LEVELS:
        raise SettingsError(
            f"MINITOOLAI_LOG_LEVEL={settings.log_level!r} is invalid: set debug, info, warning or error"
        )
    if settings.log_format not in ("text", "json"):
        raise SettingsError(f"MINITOOLAI_LOG_FORMAT={settings.log_format!r} is invalid: set text or json")
    handler = logging.StreamHandler(sys.stderr)
    is_json = settings.log_format == "json"
    handler.setFormatter(
        JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    handler.addFilter(remove_query)
    logging.basicConfig(level=level, handlers=[handler])
    for name in VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def remove_query(record: logging.LogRecord) -> bool:
    """Cut the query string off access log lines. A logging filter that keeps every record."""
    if record.name == _ACCESS and isinstance(record.args, tuple) and len(record.args) == len(_ACCESS_FIELDS):
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


class JsonFormatter(logging.Formatter):
    """Format each record as one JSON object, with the request ID and generation ID if a request is being served."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line as ASCII, without a line break."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        facts = current_request.get()
        if facts is not None:
            fields["request"] = facts.request_id()
            if facts.generation is not None:
                fields["generation"] = facts.generation
        fields |= getattr(record, "fields", {})
        if record.name == _ACCESS and isinstance(record.args, tuple) and len(record.args) == len(_ACCESS_FIELDS):
            fields |= dict(zip(_ACCESS_FIELDS, record.args, strict=True))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
