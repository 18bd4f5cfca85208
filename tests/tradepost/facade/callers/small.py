"""A desk at which one can sign in, and nothing else: it opens in no time, on a clock that the test owns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp

from identity import SecretKey
from store import Database
from tests.tradepost.facade.conftest import Caller
from tradepost.facade.callers import accounts, logins
from tradepost.facade.callers.callers import Callers
from tradepost.facade.callers.limits import Limits
from tradepost.facade.callers.replays import Replays
from tradepost.facade.callers.sessions import Sessions
from tradepost.facade.web.app import add_operations, make_app
from tradepost.facade.web.sockets import listening
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import ManualClock


class SmallDesk:
    """One life of it, and who stands before it."""

    def __init__(self, desk: Any, http: aiohttp.ClientSession) -> None:
        self.desk = desk
        self.db: Database = desk.post.db
        self.clock: ManualClock = desk.post.clock
        self._http = http
        self.stranger = self.bearer("")

    def caller(self, key: SecretKey | None = None) -> Caller:
        """Somebody who signs each request."""
        return Caller(self.desk.url, self._http, self.clock, key or SecretKey.generate())

    def bearer(self, token: str) -> Caller:
        """Somebody with a token."""
        return Caller(self.desk.url, self._http, self.clock, token=token)


@asynccontextmanager
async def open_small(db: Database, clock: ManualClock, port: int, **given: Any) -> AsyncIterator[SmallDesk]:
    """`given` are settings."""
    many = RequestLimits(anonymous=1000, authenticated=1000)
    url = f"http://127.0.0.1:{port}"
    settings = Settings(gateway_url=url, gateway_port=port, **({"http_requests_per_minute": many} | given))
    callers = Callers(db, clock, settings.operators)
    desk: Any = SimpleNamespace(
        settings=settings, url=url, post=SimpleNamespace(db=db, clock=clock), callers=callers,
        sessions=Sessions(db, clock, callers), limits=Limits(settings, db, clock),
        replays=await Replays.load(db, clock), waiters=logins.Waiters(), metrics=SimpleNamespace(answered=lambda *_: None),
    )  # fmt: skip
    app = make_app()
    add_operations(app, desk, (*accounts.OPERATIONS, *logins.OPERATIONS))
    async with listening(app, "127.0.0.1", port), aiohttp.ClientSession() as http:
        yield SmallDesk(desk, http)
