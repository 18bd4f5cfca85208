"""Logs: one line per event on stderr, for people or as JSON, with anything that looks like a secret blotted out."""

import logging
import os
import re
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from tradepost.errors import ConfigError

_LEVELS: Final = ("debug", "info", "warning", "error")
_FORMATS: Final = ("console", "json")

# Keys, coins, tokens of callers and LNURLs (who has one may withdraw) in the forms in which they travel; credentials of
# a request; at the end locks, and what a JSON proof, a `repr`, a header or a URI calls so.
_SECRETS: Final = re.compile(
    r"n(?:crypt)?sec1[a-z0-9]{20,}"
    r"|cashu[ab][\w+/=-]{20,}"
    r"|lnurl1[a-z0-9]{20,}"
    r"|\btp[a-z]_[\w-]{16,}"
    r"|\b(?:Bearer|Nostr|Basic)[ \t]+[\w.~+/=-]{16,}"
    r"|\bauthorization[\"'\\]*\s*[:=]\s*[\"'\\]*(?:\w+[ \t]+)?[^\s\"',}&\\]+"
    r"|P2PK[\\\"']+,[^}]*"
    r"|(?:\b|_)(?:secret|password|preimage|k1|(?:access|refresh)_token)[\"'\\]*\s*[:=]\s*"
    r"(?:\"(?:[^\"\\]|\\.)*\"|[\\\"']*[^\s\"',}&\\]+)",
    re.IGNORECASE,
)


def configure_logs(level: str | None = None) -> None:
    """Write events of `level` (default: TRADEPOST_LOG, else warning) and above to stderr.

    TRADEPOST_LOG_FORMAT is `console` or `json`: then every line is one JSON object. Warnings of the libraries that we
    use go the same way, unless the application has set up Python's own logging. Raises `ConfigError`.
    """
    name = _chosen("TRADEPOST_LOG", level or os.environ.get("TRADEPOST_LOG") or "warning", _LEVELS)
    form = _chosen("TRADEPOST_LOG_FORMAT", os.environ.get("TRADEPOST_LOG_FORMAT") or "console", _FORMATS)
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redact, _renderer(form)]
    threshold = logging.getLevelNamesMapping()[name.upper()]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    if not logging.root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        tidy = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(foreign_pre_chain=first, processors=[tidy, *last])
        )
        handler.setLevel(max(threshold, logging.WARNING))  # below that they tell what goes over the wire
        logging.root.addHandler(handler)


def ensure_logs() -> None:
    """For use as a library: leave the logs as the application set them up, else set up ours (not on stdout)."""
    if not structlog.is_configured():
        configure_logs()


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A structlog processor that blots out secrets in every value of an event, however deep in it."""
    return {name: _blot(value) for name, value in event.items()}


def _chosen(variable: str, value: str, choices: tuple[str, ...]) -> str:
    if value.lower() not in choices:
        raise ConfigError(f"{variable} is {value.lower()!r}; choose one of {', '.join(choices)}")
    return value.lower()


def _renderer(form: str) -> Processor:
    if form == "json":  # `repr` is what was looked at for secrets
        return structlog.processors.JSONRenderer(default=repr, skipkeys=True)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _blot(value: Any) -> Any:
    """`value` if nothing in its text is secret, else that text without it."""
    text = value if isinstance(value, str) else repr(value)
    blotted = _SECRETS.sub("[secret]", text)
    return value if blotted == text else blotted
