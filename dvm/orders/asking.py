"""How an order begins: what is wanted becomes a signed request, which is on disk with its order before it is sent.

Outbox: kind-5xxx requests, for our relays and for where the agent reads (NIP-65). They name ours in `relays`, where
we listen. Duty: an order is not made without its request, nor before its results are listened for.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from dvm import queries
from dvm.discovery.announce import choose_agent
from dvm.errors import BadRequest
from dvm.kinds import check_request_kind
from dvm.nip90 import Input, check_size, make_request
from dvm.orders.book import OrderBook
from dvm.orders.lifecycle import OrderState
from dvm.orders.order import Order
from dvm.post import NAMED_RELAYS_MAX, Post
from dvm.private import Scheme, hide
from dvm.queries import OrderRow
from identity import Event, InvalidKey, SecretKey, Signer, nip13
from identity.nip19 import Nprofile, decode, parse_public_key
from store import Transaction
from wallet.terms import Method


def named_key(target: str) -> str | None:
    """The key that `target` names (npub, nprofile or hex), None if it is a word. Raises `BadRequest`."""
    try:
        return parse_public_key(target)
    except InvalidKey as error:
        if target.startswith(("npub1", "nprofile1", "nsec1")) or len(target) == 64:
            raise BadRequest(str(error)) from None
        return None


def relays_in(target: str) -> tuple[str, ...]:
    """The relays that `target` says its agent reads; only an nprofile says any."""
    try:
        named = decode(target)
    except InvalidKey:
        return ()
    return named.relays if isinstance(named, Nprofile) else ()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What somebody asks for; `Customer.ask` says what each means."""

    target: str
    text: str | Sequence[Input]
    kind: int
    max_sat: int
    params: Mapping[str, str | Sequence[str]]
    private: bool
    seconds_max: int
    arbiters: Sequence[str]
    settle: Sequence[Method]
    review: bool
    pow_bits: int = 0

    def check(self) -> None:
        """Raises `BadRequest` for what no agent could serve."""
        check_request_kind(self.kind)
        if Method.ESCROW in self.settle and (self.private or not self.arbiters):
            raise BadRequest(
                "an escrow needs an arbiter that you trust, and a request that the arbiter can read"
            )


class OrderAsking:
    """The requests of one customer. `lock_key(nonce)` is its key for one job, `listen(kind)` follows a kind's results.

    `signer` does not wait for a key's holder who is away: whoever asks is there, and is told.
    """

    def __init__(
        self,
        post: Post,
        signer: Signer,
        book: OrderBook,
        *,
        lock_key: Callable[[str], SecretKey],
        listen: Callable[[int], Awaitable[None]],
    ) -> None:
        self._post = post
        self._signer = signer
        self._book = book
        self._lock_key = lock_key
        self._listen = listen

    async def place(
        self, wanted: Wanted, also: Callable[[Transaction, str], Awaitable[None]] | None
    ) -> Order:
        """See `Customer.ask`."""
        wanted.check()
        provider = await self._resolve(wanted)
        now, nonce = self._post.clock.now(), secrets.token_hex(16)
        named = self._post.pool.choose(relays_in(wanted.target), NAMED_RELAYS_MAX)
        event = await self._sign(wanted, provider, nonce, now, hint=named[0] if named else "")
        row = OrderRow(
            id=event.id, customer=self._signer.public_key, provider=provider, kind=wanted.kind,
            state=OrderState.REQUESTED, max_sat=wanted.max_sat, price_sat=0, mint=None, lock_nonce=nonce, locktime=None,
            op_id=None, refund_op_id=None, request=event, offer=None, result=None, reason="",
            deadline_at=now + wanted.seconds_max, version=0, created_at=now, updated_at=now, review=wanted.review,
        )  # fmt: skip
        await self._listen(wanted.kind)
        async with self._post.db.transaction() as tx:
            await queries.insert_order(tx, row)
            await self._post.mailboxes.send(tx, event, provider, named, until=row.deadline_at)
            if also:
                await also(tx, event.id)
        self._book.watch(row)
        return self._book.handle(row)

    async def _resolve(self, wanted: Wanted) -> str:
        named = named_key(wanted.target)
        if named is not None:
            return named
        return (await choose_agent(self._post.pool, self._post.clock, wanted.kind, wanted.target)).public_key

    async def _sign(self, wanted: Wanted, provider: str, nonce: str, now: int, *, hint: str) -> Event:
        template = make_request(
            wanted.kind,
            [Input(wanted.text)] if isinstance(wanted.text, str) else wanted.text,
            params={
                name: (value,) if isinstance(value, str) else value for name, value in wanted.params.items()
            },
            provider=provider,
            bid_msat=wanted.max_sat * 1000,
            relays=self._post.pool.urls,
            mints=self._post.wallet.mints,
            lock=self._lock_key(nonce).compressed_public_key,
            expires_at=now + wanted.seconds_max,
            now=now,
            settle=wanted.settle,
            arbiters=wanted.arbiters,
            hint=hint,
        )
        if wanted.private:
            template = await hide(self._signer, template, provider, Scheme.NIP44)
        if wanted.pow_bits:
            me = self._signer.public_key
            template = await asyncio.to_thread(nip13.mine, template, me, wanted.pow_bits)
        check_size(template)
        return await self._signer.sign(template)
