"""Sets up logs, one line an event, the libraries' loggers included; must never let a secret or a subscriber through.

Fields are redacted by name, here and once, so that a careless caller leaks nothing.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.types import EventDict, Processor

from gateway.config.sections import Log

REDACTED = "[redacted]"
#: a field is hidden when its name has one of these words (`api_key`, `deviceId`) …
HIDDEN = re.compile(
    r"(secret|token|key|jwt|password|passwd|credential|authorization|auth|cookie|bearer|device|account|alias|address|"
    r"addr|ip|peer|remote|client|imsi|imei|msisdn|iccid|card|kic|kid|apdu|phone|e?mail|user|url)(e?s)?"
)
#: … unless it ends with a word that says it is only a figure or a place
FIGURES = re.compile(r"count|total|port|bytes|ms|s|limit|max|min|file|path|kind|mode")
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
#: credentials inside any text: an Authorization header's, or an API key (its id may stay)
_CREDENTIAL = re.compile(r"(?i)(\b(?:bearer|basic)\s+|\bhk_[a-z0-9]{8}_)[\w.~+/=-]+")
#: loggers of libraries that put addresses into their info lines
QUIET = ("httpx", "httpcore", "hpack")
MAX_DEPTH = 6


def setup_logging(log: Log, stream: TextIO | None = None) -> None:
    """Route structlog and the standard library's loggers to one handler on `stream` (stderr); may be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: Processor = structlog.dev.ConsoleRenderer(colors=False)
    if log.format == "json":
        renderer = structlog.processors.JSONRenderer(default=_opaque)
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _access_line, _drop_color],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # no local variables in tracebacks: those hold tokens
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(log.level.upper())
    for name in list(logging.Logger.manager.loggerDict):
        if name.split(".")[0] in ("uvicorn", "asyncio", "starlette"):
            child = logging.getLogger(name)
            child.handlers.clear()
            child.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide the values of telling fields, however deep, and credentials inside any text."""
    out = {name: event.pop(name) for name in ("timestamp", "level", "logger", "event") if name in event}
    if "event" in out:
        out["event"] = _redacted("event", out["event"], 0)
    return out | {name: _redacted(name, value, 0) for name, value in event.items()}


def is_hidden(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    return any(map(HIDDEN.fullmatch, words)) and not FIGURES.fullmatch(words[-1])


def _redacted(name: str, value: Any, depth: int) -> Any:
    if is_hidden(name) and value not in (None, "", b""):
        return REDACTED
    if isinstance(value, str):
        return _CREDENTIAL.sub(r"\1" + REDACTED, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"  # tokens and secrets are bytes inside the gateway
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(k): _redacted(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(name, item, depth + 1) for item in value]
    return value


def _opaque(value: Any) -> str:
    """An object JSON does not know: its type alone, for its text may hold anything; errors say what they are."""
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else f"<{type(value).__name__}>"


def _access_line(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """uvicorn's access line names the caller and the full path; keep method, a path without ids, and status."""
    args = event.pop("positional_args", None)
    if event.get("logger") == "uvicorn.access":
        event["event"] = "request"
        if isinstance(args, tuple) and len(args) == 5:
            _caller, method, path, _http, status = args
            event.update(method=method, path=path_shape(str(path)), status=status)
    return event


def path_shape(path: str) -> str:
    """`/v1/registrations/AbC…?x=y` → `/v1/registrations/*`: fixed words stay, everything that could be an id goes."""
    parts = path.partition("?")[0].split("/")
    return "/".join(part if _PATH_WORD.fullmatch(part) else "*" for part in parts)


_PATH_WORD = re.compile(
    r"|v1|push|apps|keys|registrations|receipts|batch|stream|recall|metrics|healthz|readyz|openapi\.json|docs"
)


def _drop_color(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)
    return event
