"""Logs: one line per event on stderr, with anything that looks like a secret blotted out."""

import logging
import os
import re
import sys
from typing import Any, Final

import structlog

from tradepost.errors import ConfigError

_LEVELS: Final = ("debug", "info", "warning", "error")

# Keys and coins in the forms in which they travel; at the end locks, and what a JSON proof, a `repr` or a URI calls so.
_SECRETS: Final = re.compile(
    r"n(?:crypt)?sec1[a-z0-9]{20,}"
    r"|cashu[ab][\w+/=-]{20,}"
    r"|P2PK[\\\"']+,[^}]*"
    r"|(?:\b|_)(?:secret|password)[\"'\\]*\s*[:=]\s*(?:\"(?:[^\"\\]|\\.)*\"|[\\\"']*[^\s\"',}&\\]+)",
    re.IGNORECASE,
)


def configure_logs(level: str | None = None) -> None:
    """Write events of `level` (default: TRADEPOST_LOG, else warning) and above to stderr. Raises `ConfigError`."""
    name = (level or os.environ.get("TRADEPOST_LOG") or "warning").lower()
    if name not in _LEVELS:
        raise ConfigError(f"TRADEPOST_LOG is {name!r}; choose one of {', '.join(_LEVELS)}")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[name.upper()]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def ensure_logs() -> None:
    """For use as a library: leave the logs as the application set them up, else set up ours (not on stdout)."""
    if not structlog.is_configured():
        configure_logs()


def redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A structlog processor that blots out secrets in every value of an event, however deep in it."""
    return {name: _blot(value) for name, value in event.items()}


def _blot(value: Any) -> Any:
    """`value` if nothing in its text is secret, else that text without it."""
    text = value if isinstance(value, str) else repr(value)
    blotted = _SECRETS.sub("[secret]", text)
    return value if blotted == text else blotted
