"""Signing in: with a Lightning wallet (LNURL-auth, LUD-04), or with a signed request; and what becomes of the session.

A wallet's challenge is bound to the browser that asked for it: only who knows its `poll` secret gets the tokens, once.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from identity import InvalidLogin, lnurl_auth
from identity.lnurl_auth import LoginAction
from relay_bridge.timing import within
from tradepost.facade.callers import queries_sessions as queries
from tradepost.facade.callers.accounts import Secret, link_key
from tradepost.facade.callers.callers import digest
from tradepost.facade.callers.queries_sessions import LoginRow
from tradepost.facade.callers.sessions import Tokens
from tradepost.facade.web.operations import Call, Nothing, Operation, Who
from tradepost.facade.web.problems import Forbidden, NotFound, TooManyRequests, Unauthorized
from wallet import encode_lnurl

POLL: Final = "tpp_"
LOGIN_SECONDS: Final = 300
WAITERS_MAX: Final = 4  # of one login
AGAIN_SECONDS: Final = 60
WAIT_SECONDS_MAX: Final = 30
CLIENT_LOGINS_MAX: Final = 20
LOGINS_MAX: Final = 10_000


class LoginWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the wallet shows its owner that the signature is for. `link` lets its key join the account of who asks."""

    action: LoginAction = LoginAction.LOGIN


class Login(msgspec.Struct, frozen=True):
    """`lnurl` is for the wallet, as a QR code or a `lightning:` link. `poll` is for who asked, and for nobody else.

    `domain` is what the wallet shows, and for which it has a key of its own.
    """

    lnurl: str
    url: str
    poll: str
    action: LoginAction
    domain: str
    expires_at: int

    def __repr__(self) -> str:
        return f"Login(action={self.action}, expires_at={self.expires_at})"


class Signature(msgspec.Struct, frozen=True):
    """What a wallet adds to the URL (LUD-04), and what of it was there: the `action` that it showed its owner."""

    k1: str = ""
    sig: str = ""
    key: str = ""
    action: str = ""


class WalletAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """As wallets expect it, with HTTP 200 (LUD-01); an ERROR is told by `app.py`."""

    status: Literal["OK", "ERROR"]
    reason: str = ""


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many seconds the answer may wait for the wallet."""

    wait: Annotated[int, Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0


class PollSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `poll` of a login."""

    poll: Secret

    def __repr__(self) -> str:
        return "PollSecret()"


class LoginState(msgspec.Struct, frozen=True):
    """`tokens` come once, with `signed_in`."""

    state: Literal["waiting", "signed_in"]
    tokens: Tokens | None = None


class RefreshSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token that came last."""

    refresh: Secret

    def __repr__(self) -> str:
        return "RefreshSecret()"


class Waiters:
    """Who waits for a wallet, by the digest of the login's `poll`."""

    def __init__(self) -> None:
        self._woken: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    @contextmanager
    def waiting(self, poll: str) -> Iterator[asyncio.Event]:
        """Wait for the event within the context. Raises `TooManyRequests` where others do so already."""
        others = self._woken.setdefault(poll, set())
        if len(others) >= WAITERS_MAX:
            raise TooManyRequests("this login is waited for already: wait for that answer", retry_after=1)
        others.add(woken := asyncio.Event())
        if self._closed:
            woken.set()
        try:
            yield woken
        finally:
            others.remove(woken)
            if not others:
                del self._woken[poll]

    async def close(self) -> None:
        """Let all go on without it, and whoever comes later: they would hold the server open."""
        self._closed = True
        for poll in self._woken:
            self.wake(poll)

    def wake(self, poll: str) -> None:
        """The wallet has signed, and that is durable."""
        for woken in self._woken.get(poll, ()):
            woken.set()


async def begin_login(call: Call) -> Login:
    """See `OPERATIONS`."""
    desk, action = call.desk, call.body.action
    now, k1, poll = desk.post.clock.now(), lnurl_auth.make_k1(), POLL + secrets.token_urlsafe(32)
    client, expires_at = call.client, now + LOGIN_SECONDS
    if action is LoginAction.LINK and call.caller is None:
        raise Unauthorized("to link a wallet to your account, sign this request or send a token that is good")
    async with desk.post.db.transaction() as tx:
        account = None
        if action is LoginAction.LINK:
            await desk.callers.ensure(tx, call.known)
            await desk.callers.check_owner(tx, call.known)
            account = call.known.id
        await queries.delete_old_logins(tx, now)
        own, total = await queries.count_logins(tx, client)
        if own >= CLIENT_LOGINS_MAX or total >= LOGINS_MAX:
            raise TooManyRequests(
                "too many logins are waiting for a wallet; finish one of them, or try again when one has expired",
                retry_after=AGAIN_SECONDS,
            )
        await queries.insert_login(tx, LoginRow(k1, digest(poll), client, account, None, expires_at))
    # The k1 is in the path as well: some wallets send nothing of the query but what they add to it.
    url = f"{desk.url}/v1/auth/lnurl/{k1}?{lnurl_auth.challenge_query(k1, action)}"
    return Login(encode_lnurl(url), url, poll, action, urlsplit(desk.url).hostname or "", expires_at)


async def sign_login(call: Call) -> WalletAnswer:
    """See `OPERATIONS`. One signature counts, whoever is first; a wrong one leaves the challenge open."""
    desk, k1, told = call.desk, call.part("k1").lower(), call.query
    if told.k1.lower() not in ("", k1):
        raise InvalidLogin("`k1` in the query is another one than in the path")
    key = f"lnurl:{lnurl_auth.verify(k1=k1, sig=told.sig, key=told.key)}"
    async with desk.post.db.transaction() as tx:
        login = await queries.sign_login(tx, k1, key, desk.post.clock.now())
        if login is None:
            raise NotFound(
                "this login is over: it was signed already, or its five minutes passed; show a new code"
            )
        # Whoever shows a challenge to link may write another action into it: what counts is what the wallet showed.
        if (told.action == LoginAction.LINK) != (login.caller is not None):
            raise Forbidden(
                "this code is to link a wallet to an account, and says so no more: do not use it"
                if login.caller
                else "this code is to sign in, and says that it links: do not use it"
            )
        if login.caller is not None:
            await link_key(desk, tx, key, login.caller)
        tx.after_commit(partial(desk.waiters.wake, login.poll))
    return WalletAnswer("OK")


async def finish_login(call: Call) -> LoginState:
    """See `OPERATIONS`."""
    desk, clock, poll = call.desk, call.desk.post.clock, digest(call.body.poll)
    with desk.waiters.waiting(poll) as woken:
        if await _is_waiting(call, poll) and call.query.wait:
            with suppress(TimeoutError):
                await within(clock, call.query.wait, woken.wait())
    if await _is_waiting(call, poll):
        return LoginState("waiting")
    async with desk.post.db.transaction() as tx:
        row = await queries.take_login(tx, poll, clock.now())
        if row is None or row.key is None:  # another request was faster
            raise _no_login()
        tokens = await desk.sessions.begin(tx, await desk.callers.of_key(row.key))
    return LoginState("signed_in", tokens)


async def _is_waiting(call: Call, poll: str) -> bool:
    row = await queries.login_of_poll(call.desk.post.db, poll)
    if row is None or row.expires_at <= call.desk.post.clock.now():
        raise _no_login()
    return row.key is None


def _no_login() -> NotFound:
    return NotFound(
        "no such login is open: its tokens were fetched, or its five minutes are over; begin anew"
    )


async def begin_session(call: Call) -> Tokens:
    """See `OPERATIONS`."""
    async with call.desk.post.db.transaction() as tx:
        return await call.desk.sessions.begin(tx, call.known)


async def refresh_session(call: Call) -> Tokens:
    """See `OPERATIONS`."""
    return await call.desk.sessions.refresh(call.body.refresh)


async def end_session(call: Call) -> Nothing:
    """See `OPERATIONS`."""
    if call.known.session is None:
        raise NotFound("this request came with a key or a ticket, not with a session: there is none to end")
    async with call.desk.post.db.transaction() as tx:
        await call.desk.sessions.end(tx, call.known.session)
    return Nothing()


_GROUP: Final = "Signing in"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="begin_login",
        method="POST",
        path="/v1/auth/lnurl",
        about="Begin to sign in with a Lightning wallet\n\nShow `lnurl` as a QR code, or open `lightning:` and it. "
        "Keep `poll`, and ask POST /v1/auth/lnurl/token with it. `register`, `login` and `auth` all begin a session; "
        "`link`, from who is signed in, lets the wallet's key join their account first, if the wallet keeps the URL's "
        "`action`; else its key joins by a code (POST /v1/account/links). See LUD-04.",
        handler=begin_login,
        who=Who.WHOEVER,
        body=LoginWish,
        answer=Login,
        status=201,
        problems=("forbidden",),
        group=_GROUP,
    ),
    Operation(
        name="sign_login",
        method="GET",
        path="/v1/auth/lnurl/{k1}",
        about="Sign a login, as a wallet\n\nThe URL that the LNURL holds, with what the wallet adds to it (LUD-04). "
        "Every answer has status 200, and says in its body whether the signature counts (LUD-01).",
        handler=sign_login,
        who=Who.WHOEVER,
        query=Signature,
        lenient=True,
        for_wallets=True,
        answer=WalletAnswer,
        parts=(("k1", "the challenge, in hex"),),
        group=_GROUP,
    ),
    Operation(
        name="finish_login",
        method="POST",
        path="/v1/auth/lnurl/token",
        about="Get the tokens of a login\n\nOnce the wallet has signed, and then once. With `wait` the answer waits so "
        "many seconds for it.",
        handler=finish_login,
        who=Who.WHOEVER,
        query=Waiting,
        body=PollSecret,
        answer=LoginState,
        problems=("not_found",),
        group=_GROUP,
    ),
    Operation(
        name="begin_session",
        method="POST",
        path="/v1/auth/sessions",
        about="Begin a session\n\nFrom a signed request (NIP-98, or RFC 9421 with Ed25519). Send `access` as Bearer "
        "token for 15 minutes; get the next two tokens with `refresh`, which is good once, for 30 days.",
        handler=begin_session,
        answer=Tokens,
        status=201,
        who=Who.CALLER,
        costly=True,
        problems=("forbidden",),
        group=_GROUP,
    ),
    Operation(
        name="refresh_session",
        method="POST",
        path="/v1/auth/refresh",
        about="Refresh a session\n\nBoth old tokens are good no more. A refresh token that is shown twice ends its "
        "session at once: somebody may have a copy. So send one at a time, and sign in again if an answer was lost.",
        handler=refresh_session,
        who=Who.WHOEVER,
        body=RefreshSecret,
        answer=Tokens,
        problems=("unauthorized",),
        group=_GROUP,
    ),
    Operation(
        name="end_session",
        method="DELETE",
        path="/v1/auth/session",
        about="End the session\n\nThe one whose access token comes with the request: sign out.",
        handler=end_session,
        who=Who.CALLER,
        problems=("not_found",),
        group=_GROUP,
    ),
)
