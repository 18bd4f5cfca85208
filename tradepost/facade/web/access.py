"""What the log and the metrics learn of each request: the operation's name, never its path, query or body."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiohttp import web

from tradepost.facade.callers.callers import Caller, Tier
from tradepost.facade.desk import Desk
from tradepost.facade.web.addresses import client_of_request

#: By what a caller names a request to the operator, who finds its lines in the log.
REQUEST_ID: Final = "X-Request-Id"

log = structlog.get_logger(__name__)


@dataclass
class Access:
    """One request under way. Every line that is logged from here on, in its task and those it starts, has its id."""

    operation: str  # its name
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    tier: Tier = Tier.ANONYMOUS
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        structlog.contextvars.bind_contextvars(request_id=self.id)

    def is_by(self, caller: Caller | None) -> None:
        """The credentials, if there were any, hold."""
        if caller is not None:
            self.tier = caller.tier

    def answered(self, desk: Desk, request: web.Request, response: web.StreamResponse) -> None:
        """Count it and log it, and tell the caller its id if there is still time."""
        seconds = time.perf_counter() - self.began
        desk.metrics.answered(self.operation, response.status, seconds)
        if not response.prepared:
            response.headers[REQUEST_ID] = self.id
        more = {}
        if desk.settings.log_addresses:
            more["address"] = client_of_request(request, behind_proxy=desk.settings.gateway_behind_proxy)
        log.info(
            "request", operation=self.operation, status=response.status, milliseconds=round(seconds * 1000, 1),
            tier=str(self.tier), **more,
        )  # fmt: skip
