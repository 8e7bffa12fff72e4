"""How the log is written: a line of text, or a JSON object a line. Queries of addresses, which carry signatures and
links of letters, are cut off in either."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from minitoolai.core.errors import SettingsError
from minitoolai.settings import Settings

if TYPE_CHECKING:
    from minitoolai.http.request_context import RequestContext

#: The request that the running code belongs to. Set by the HTTP layer; tasks that a request starts inherit it.
current_request: Final[ContextVar[RequestContext | None]] = ContextVar("minitoolai.request", default=None)


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
#: Libraries that write down whole requests when they are asked to tell everything.
TALKATIVE = ("httpcore", "httpx", "stripe", "urllib3", "hpack", "PIL", "obstore", "h11")
_ACCESS = "uvicorn.access"
_ACCESS_FIELDS = ("client", "method", "path", "http_version", "status")


def set_up(settings: Settings) -> None:
    """For the whole process, once. SettingsError for a level or format that is none."""
    level = settings.log_level.upper()
    if level not in LEVELS:
        raise SettingsError(f"MINITOOLAI_LOG_LEVEL={settings.log_level!r} is wrong: debug, info, warning or error")
    if settings.log_format not in ("text", "json"):
        raise SettingsError(f"MINITOOLAI_LOG_FORMAT={settings.log_format!r} is wrong: text or json")
    handler = logging.StreamHandler(sys.stderr)
    is_json = settings.log_format == "json"
    handler.setFormatter(
        JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    handler.addFilter(without_query)
    logging.basicConfig(level=level, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def without_query(record: logging.LogRecord) -> bool:
    """A filter that drops nothing: the line of an access loses what follows the question mark."""
    if record.name == _ACCESS and isinstance(record.args, tuple) and len(record.args) == len(_ACCESS_FIELDS):
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message; request and generation where a request is at work."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII, without its end."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        facts = current_request.get()
        if facts is not None:
            said["request"] = facts.request_id()
            if facts.generation is not None:
                said["generation"] = facts.generation
        if record.name == _ACCESS and isinstance(record.args, tuple) and len(record.args) == len(_ACCESS_FIELDS):
            said |= dict(zip(_ACCESS_FIELDS, record.args, strict=True))
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)
