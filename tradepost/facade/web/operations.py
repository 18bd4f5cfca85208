"""What an HTTP operation is: a method, a path, and the types of what goes in and out. Pure.

The same types validate a request (`app.py`) and describe it (`openapi.py`), so the two cannot differ.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec
from aiohttp import web

from tradepost.facade.callers.callers import Caller
from tradepost.facade.desk import Desk
from tradepost.facade.web.headers import JSON
from tradepost.facade.web.problems import NotValid

EVENT_STREAM: Final = "text/event-stream"
X_CASHU: Final = "X-Cashu"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
KEY_CHARS_MAX: Final = 128


class Who(Enum):
    """Who may call."""

    ANYBODY = "anybody"
    WHOEVER = (
        "whoever"  # anybody: credentials that are good no more count as none, since here one gets new ones
    )
    PAYER = "payer"  # anybody: who is unknown here, and pays, is given a ticket
    CALLER = "caller"  # somebody with credentials
    OPERATOR = "operator"  # whose key the configuration names


class Nothing(msgspec.Struct, frozen=True):
    """No query, no body."""


@dataclass(frozen=True)
class Call:
    """One request to one operation. `query` and `body` are of the operation's types; `caller` is None for strangers."""

    desk: Desk
    request: web.Request
    caller: Caller | None
    query: Any
    body: Any
    raw: bytes  # the body as it came

    @property
    def known(self) -> Caller:
        """The caller of an operation that only callers with credentials may use."""
        assert self.caller is not None
        return self.caller

    @property
    def idempotency_key(self) -> str | None:
        """By which the same request again is known, if the caller sent one. Raises `NotValid`."""
        key = self.request.headers.get(IDEMPOTENCY_KEY)
        if key is None or (0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable()):
            return key
        raise NotValid(f"an {IDEMPOTENCY_KEY} is 1 to {KEY_CHARS_MAX} printable characters of ASCII")

    @property
    def client(self) -> str:
        """Whose request it is, as far as an address can say."""
        return self.desk.limits.client_of(self.request)

    def part(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One entry of the API. `path` is as OpenAPI writes it: /v1/jobs/{id}.

    `handler` returns an `answer`, or a response of its own where `media` is not JSON. `costly`: it asks mints or
    relays, and counts for more against the limits. `problems` are the codes it may answer besides those of every
    operation.
    """

    name: str  # operationId
    method: str
    path: str
    about: str  # the first line is the summary
    handler: Handler
    answer: Any = Nothing  # a msgspec type
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] = Nothing
    status: int = 200
    media: str = JSON
    who: Who = Who.ANYBODY
    costly: bool = False
    counted: bool = True  # against the limits
    for_wallets: bool = False  # errors are told as LNURL wallets expect them
    once: bool = False  # takes an Idempotency-Key
    lenient: bool = False  # what its query has twice comes once, or if it differs joined by commas
    problems: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()  # that its answers may have
    parts: tuple[tuple[str, str], ...] = ()  # of the path: name, what it is
    group: str = ""  # under what heading it is told
