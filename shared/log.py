"""Logging: readable lines on a terminal, one JSON object a line elsewhere, never a secret in either.

`get_logger(__name__)` costs nothing until the first message: settings are read and the handler is installed then.
A program whose libraries log through the standard library (uvicorn, alembic) calls `configure()` when it starts, so
that their lines take the same shape. Everything goes to stderr; stdout belongs to what a command prints.

Values are masked by the name they are logged under (`password`, `api_key`, `Authorization`, …, at any depth), and
inside text where a password stands in a URL, a query string or a Bearer header.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

MASK = "***"

_SECRET_WORDS = frozenset(
    {"key", "keys", "apikey", "token", "tokens", "password", "passwd", "secret", "secrets", "authorization", "cookie"}
)
_NAMES_OF_KEYS = frozenset({"key_id", "key_name", "token_count"})  # say which key it was, not what it is
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_IN_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), r"\1 " + MASK),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1" + MASK + "@"),
    (re.compile(r"(?i)([?&](?:api_?key|key|token|password|secret)=)[^&\s\"']+"), r"\1" + MASK),
)
_lock = threading.Lock()
_installed: logging.Handler | None = None
_json_lines = False


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module. `name` is `__name__`; the same name gives loggers that share one level."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(level: str | None = None, *, json_lines: bool | None = None) -> None:
    """Send every log line of this process, ours and the libraries', to stderr in one shape. Safe to call again.

    Args:
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`; default `settings.log_level` (`HAECHI_LOG_LEVEL`).
        json_lines: True for JSON, False for readable text; default JSON unless stderr is a terminal.

    Raises:
        BadInput: the level is not one of the four, or the settings cannot be read.
    """
    global _installed, _json_lines
    handler = _StderrHandler()
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    handler.setFormatter(_formatter(json_lines=as_json))
    number = _level(level)
    with _lock:
        root = logging.getLogger()
        if _installed is not None:
            root.removeHandler(_installed)
        root.addHandler(handler)
        root.setLevel(number)
        _installed = handler
        _json_lines = as_json


def writes_json() -> bool:
    """True if log lines are JSON: then a log with thousands of lines a second may make its own."""
    if _installed is None:
        configure()
    return _json_lines


def mask(value: Any, name: str = "") -> Any:
    """`value` without its secrets: wholly masked under a secret `name`, else masked inside mappings, lists and text."""
    if name and value is not None and not isinstance(value, bool) and _is_secret(name):
        return MASK
    if isinstance(value, Mapping):
        return {key: mask(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item) for item in value]
    if isinstance(value, str):
        for pattern, replacement in _IN_TEXT:
            value = pattern.sub(replacement, value)
    return value


def _is_secret(name: str) -> bool:
    if name.lower() in _NAMES_OF_KEYS:
        return False
    return not _SECRET_WORDS.isdisjoint(word.lower() for word in _WORD.findall(name))


def _level(level: str | None) -> int:
    from shared import settings
    from shared.errors import BadInput

    name = (level or settings.load().log_level).upper()
    if name not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise BadInput(f"log level {name} (HAECHI_LOG_LEVEL) is unknown; use DEBUG, INFO, WARNING or ERROR.")
    return logging.getLevelNamesMapping()[name]


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, so that progress bars and tests may put their own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)  # a full disk or a closed stderr must not end the work


def _mask_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else mask(value, key) for key, value in event.items()}


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _formatter(*, json_lines: bool) -> logging.Formatter:
    ending: list[Processor]
    if json_lines:
        ending = [
            structlog.processors.format_exc_info,
            _mask_event,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        plain = structlog.dev.plain_traceback
        ending = [_mask_event, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared_processors(), structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )


def _logger_of(*names: Any) -> logging.Logger:
    """structlog's factory of loggers: the first message of a process installs the handler."""
    if _installed is None:
        configure()
    return logging.getLogger(str(names[0]) if names else "haechi")


structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_shared_processors(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=_logger_of,
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=False,
)
