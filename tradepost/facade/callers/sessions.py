"""Sessions: what a browser has instead of a key. A short access token, and a refresh token that changes at each use."""

import secrets
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from store import Clock, Database, Transaction
from tradepost.facade.callers import queries_sessions as queries
from tradepost.facade.callers.callers import Caller, Callers, digest
from tradepost.facade.callers.queries_sessions import Ended, SessionRow
from tradepost.facade.web.problems import Forbidden, Unauthorized

ACCESS_SECONDS: Final = 900
REFRESH_SECONDS: Final = 30 * 86_400
ACCESS: Final = "tpa_"
REFRESH: Final = "tpr_"
SESSIONS_MAX: Final = 20  # of one account
USED_MAX: Final = 5000  # refresh tokens of a session, used within the time they were good for
KNOWN_MAX: Final = 10_000
_OLD_MAX: Final = 100
_AGAIN: Final = "sign in again"
_WHY: Final = {
    Ended.SIGNED_OUT: f"this session was ended: {_AGAIN}",
    Ended.KEY_GONE: f"the key that began this session joined another account, or was removed: {_AGAIN}",
    Ended.CROWDED_OUT: f"this session gave way to newer ones, of which an account has {SESSIONS_MAX}: {_AGAIN}",
    Ended.REUSED: "a refresh token of this session was shown twice, so somebody may have a copy of it; the session is "
    f"over, its access token too: {_AGAIN}",
    Ended.WORN_OUT: f"this session was refreshed {USED_MAX} times in 30 days: {_AGAIN}, and refresh less often",
    Ended.RESTORED: f"this post was brought back from a backup, and all sessions of before are over: {_AGAIN}",
}

log = structlog.get_logger(__name__)


class Tokens(msgspec.Struct, frozen=True):
    """What a session is used by. `access` is the bearer token; `refresh` gets the next two, once. Times are unix."""

    access: str
    access_expires_at: int
    refresh: str
    refresh_expires_at: int

    def __repr__(self) -> str:
        return f"Tokens(access_expires_at={self.access_expires_at})"


class Sessions:
    """Begins, refreshes and ends sessions; one for each post. The tables hold hashes of tokens only.

    Strict: a refresh token is good once. Whether its owner or a thief shows it again cannot be told, so that ends the
    session. Who never received the answer to a refresh looks the same, and signs in again too.
    """

    def __init__(self, db: Database, clock: Clock, callers: Callers) -> None:
        self._db = db
        self._clock = clock
        self._callers = callers
        self._known: dict[str, SessionRow] = {}  # by access token, as hashes: those that are good

    async def begin(self, tx: Transaction, caller: Caller) -> Tokens:
        """A session of the caller's key; the oldest of its account ends if they are too many.

        Raises `Forbidden` for tickets, which are tokens themselves, and for those who have a session already.
        """
        if caller.is_ticket or caller.session is not None:
            raise Forbidden(
                "a session begins with a signed request, or a wallet's signature: not with a token"
            )
        now = self._clock.now()
        await self._callers.ensure(tx, caller)
        await queries.delete_old_sessions(tx, now, _OLD_MAX)
        for old in (await queries.live_sessions(tx, caller.id, now))[SESSIONS_MAX - 1 :]:
            await self._end(tx, old.id, Ended.CROWDED_OUT)
        tokens = _draw(now)
        await queries.insert_session(tx, _row(tokens, secrets.token_hex(16), caller.id, caller.key, now))
        return tokens

    async def caller_of(self, access: str) -> Caller:
        """Who has this access token. Raises `Unauthorized` if it is not good, or no more."""
        token = digest(access)
        row = self._known.get(token) or await self._look_up(token)
        if row.access_expires_at <= self._clock.now():
            raise Unauthorized("this access token has expired: refresh it at POST /v1/auth/refresh")
        return replace(await self._callers.of_key(row.key), session=row.id)

    async def holds(self, caller: Caller) -> bool:
        """Whether by what a request came with a while ago its caller is known still: its session, and its key."""
        if (await self._callers.of_key(caller.key)).id != caller.id:
            return False
        return caller.session is None or await queries.is_live(self._db, caller.session, self._clock.now())

    async def refresh(self, refresh: str) -> Tokens:
        """The next tokens; those before are good no more once they are drawn. Raises `Unauthorized`.

        A token that was used before ends its session, access included.
        """
        now, token, tokens = self._clock.now(), digest(refresh), None
        async with self._db.transaction() as tx:
            row = await queries.session_of_refresh(tx, token)
            if row is not None:
                why = row.ended
                if why is None and row.refresh_expires_at > now:
                    tokens, why = await self._rotate(tx, row, now)
            elif row := await queries.session_of_used(tx, token):
                why = row.ended or Ended.REUSED
                if row.ended is None:
                    log.warning("refresh_token_reused", session=row.id, caller=row.caller)
                    await self._end(tx, row.id, why)
            else:
                raise Unauthorized(f"this refresh token is not known here: {_AGAIN}")
        if tokens is None:  # said only now: what ended the session is to be durable
            raise Unauthorized(_WHY[why] if why else f"this refresh token has expired: {_AGAIN}")
        return tokens

    async def end(self, tx: Transaction, session: str) -> None:
        """End a session by its id, once `tx` is durable."""
        await self._end(tx, session, Ended.SIGNED_OUT)

    async def end_of_key(self, tx: Transaction, caller: str, key: str) -> None:
        """End all sessions of a key with that account, once `tx` is durable."""
        await queries.end_sessions_of_key(tx, caller, key)
        tx.after_commit(self._forget)

    async def _rotate(
        self, tx: Transaction, row: SessionRow, now: int
    ) -> tuple[Tokens, None] | tuple[None, Ended]:
        if await queries.used_count(tx, row.id, now) >= USED_MAX:
            await self._end(tx, row.id, Ended.WORN_OUT)
            return None, Ended.WORN_OUT
        tokens = _draw(now)
        await queries.rotate(tx, row, _row(tokens, row.id, row.caller, row.key, row.created_at))
        tx.after_commit(self._forget)
        return tokens, None

    async def _end(self, tx: Transaction, session: str, why: Ended) -> None:
        await queries.end_session(tx, session, why)
        tx.after_commit(self._forget)

    def _forget(self) -> None:
        self._known = {}  # a new one: a look-up that is under way leaves what it found in the old

    async def _look_up(self, token: str) -> SessionRow:
        known = self._known
        row = await queries.session_of_access(self._db, token)
        if row is None:
            raise Unauthorized(f"this access token is not known here, or was replaced by a refresh: {_AGAIN}")
        if row.ended is not None:
            raise Unauthorized(_WHY[row.ended])
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[token] = row
        return row


def _draw(now: int) -> Tokens:
    access, refresh = ACCESS + secrets.token_urlsafe(32), REFRESH + secrets.token_urlsafe(32)
    return Tokens(access, now + ACCESS_SECONDS, refresh, now + REFRESH_SECONDS)


def _row(tokens: Tokens, session: str, caller: str, key: str, created_at: int) -> SessionRow:
    return SessionRow(
        session, caller, key, digest(tokens.access), tokens.access_expires_at, digest(tokens.refresh),
        tokens.refresh_expires_at, created_at,
    )  # fmt: skip
