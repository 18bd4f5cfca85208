"""Jobs for people who have a Lightning wallet and nothing else.

    UNPAID ─▶ PAID ─▶ ASKED ─▶ DONE, FAILED        unpaid for a day after its invoice ran out: EXPIRED

The row is on disk before its invoice is shown. Until the ecash is locked to the job whoever runs this holds the sats:
custodial, so there is a cap. What is left at the end (all of it, where there is no result) goes back by Lightning: to
the address that was given before, or to whoever shows the k1. Open rows go on at the next start.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import structlog

import dvm.queries
from dvm import Customer, DvmError, OrderState, Post
from dvm.discovery.announce import choose_agent
from dvm.kinds import check_request_kind
from dvm.orders.asking import named_key
from identity import BunkerUrl, SecretKey, read_key_file
from store import Database, Transaction
from tradepost.bunkers import memory_of
from tradepost.errors import GatewayRefused
from tradepost.post import read_seed
from tradepost.reserving import with_fees
from tradepost.secrets import CUSTOMER
from tradepost.settings import Settings
from wallet import InvalidLnurl, LimitExceeded, LnurlClient, State, WalletError
from wallet import queries_lnurl as queries
from wallet.invoice import parse_invoice
from wallet.queries_lnurl import OPEN_STAGES, InvoiceRow, LightningOrder, Stage, Withdrawal
from wallet.quotes import QUOTE_GRACE_SECONDS
from wallet.sweep import payable_sat
from wallet.terms import Method
from wallet.withdrawals import Withdrawals

INPUT_BYTES_MAX: Final = 32_768
OPEN_ORDERS_MAX: Final = 200
JOB_SECONDS_MAX: Final = 600
POLL_SECONDS: Final = 1.0
SLOW_POLL_SECONDS: Final = 60.0
REFUND_TRIES_MAX: Final = 8
KEEP: Final = "wallet"  # as `refund_to`: what is left stays in the wallet of this post

log = structlog.get_logger(__name__)


class LightningOrders:
    """The orders of one post that are paid through Lightning wallets. `start` goes on with what was left open.

    `own` are the public keys of this post's agents and arbiters: never those of a job that it holds money for.
    """

    def __init__(
        self,
        post: Post,
        customer: Customer,
        client: LnurlClient,
        *,
        own: Collection[str],
        arbiters: Sequence[str],
        cap_sat: int,
    ) -> None:
        self._post = post
        self._customer = customer
        self._client = client
        self._own = frozenset(own)
        self._arbiters = tuple(arbiters)
        self.cap_sat = cap_sat
        self.withdrawals = Withdrawals(post.db, post.wallet, post.clock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Resume every open order, payout and refund."""
        for row in await queries.open_orders(self._post.db):
            self._spawn(self._drive(row.id))
        for k1 in await queries.withdrawals_under_way(self._post.db):
            self.finish_payout(k1)
        for row in await queries.orders_to_refund(self._post.db):
            self._spawn(self._refund(row))

    async def stop(self) -> None:
        """Stop. What is open stays on disk."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self,
        target: str,
        text: str,
        *,
        kind: int,
        max_sat: int,
        params: Mapping[str, str | Sequence[str]] | None = None,
        refund_to: str = "",
        keep_rest: bool = False,
    ) -> LightningOrder:
        """Take an order and make its invoice: both are on disk when this returns; of the agent nothing is asked yet.

        The invoice is over `max_sat` and the mint's fees, at most the cap; what the job does not cost comes back, or
        with `keep_rest`, for whoever orders at a post of their own, stays in this wallet.
        Raises `GatewayRefused`, `BadRequest`, `NoAgentFound`, `MintUnavailable`; for `refund_to`, which must lead to a
        service that answers, what `LnurlClient` raises.
        """
        check_request_kind(kind)
        if len(text.encode(errors="replace")) > INPUT_BYTES_MAX:
            raise GatewayRefused(
                f"the input has more than {INPUT_BYTES_MAX} bytes; give the URL of it instead"
            )
        if not 1 <= max_sat <= self.cap_sat:
            raise GatewayRefused(f"say what the job may cost: 1 to {self.cap_sat} sat, fees included")
        now = self._post.clock.now()
        waiting = [row for row in await queries.open_orders(self._post.db) if not _is_stale(row, now)]
        if len(waiting) >= OPEN_ORDERS_MAX:
            raise GatewayRefused("too many orders are open here; try again later")
        provider = named_key(target)
        if provider is None:
            provider = (await choose_agent(self._post.pool, self._post.clock, kind, target)).public_key
        self.refuse_own(provider, *self._arbiters)
        if refund_to:
            await self._client.pay_request(refund_to)
        told = orjson.dumps(dict(params or {})).decode()
        return await self._take(
            provider=provider, text=text, kind=kind, max_sat=max_sat, params=told,
            refund_to=KEEP if keep_rest else refund_to,
        )  # fmt: skip

    def refuse_own(self, *parties: str) -> None:
        """Raise `GatewayRefused` if a job's provider or arbiter is of this post: it would hold money against itself."""
        if not self._own.isdisjoint(parties):
            raise GatewayRefused(
                "the agent or its arbiter belongs to this very post, which may not hold the money for its own work; "
                "order through another gateway"
            )

    async def settled(self) -> None:
        """Wait until nothing is under way: no order that was paid, no payout to an address."""
        while self._tasks:
            unpaid = [row for row in await queries.open_orders(self._post.db) if row.state is Stage.UNPAID]
            if len(self._tasks) == len(unpaid):
                return
            await self._post.clock.sleep(POLL_SECONDS)

    def finish_payout(self, k1: str) -> None:
        """See a payout through that was begun, in the background."""
        self._spawn(self._finish(k1))

    async def result(self, row: LightningOrder) -> str | None:
        """The result of an order that is done."""
        job = await dvm.queries.get_order(self._post.db, row.job_id) if row.job_id else None
        return job.result.content if job and job.result and row.state is Stage.DONE else None

    # Taking an order --------------------------------------------------------------------------------------------------

    async def _take(
        self, *, provider: str, text: str, kind: int, max_sat: int, params: str, refund_to: str
    ) -> LightningOrder:
        wallet, now = self._post.wallet, self._post.clock.now()
        if not wallet.mints:
            raise GatewayRefused("no mint is configured here, so no invoice can be made")
        mint = wallet.mints[0]
        amount_sat = await with_fees(wallet, max_sat)
        if amount_sat > self.cap_sat:
            raise GatewayRefused(
                f"{amount_sat} sat with the mint's fees, and {self.cap_sat} sat are the most that are held for anybody"
            )
        quote = await wallet.mint_quote(mint, amount_sat)
        invoice = parse_invoice(quote.bolt11)
        row = LightningOrder(
            id=secrets.token_hex(16), state=Stage.UNPAID, provider=provider, kind=kind, input=text,
            params=params, max_sat=max_sat, amount_sat=amount_sat, mint=mint,
            quote_id=quote.id, bolt11=quote.bolt11, payment_hash=invoice.payment_hash, expires_at=invoice.expires_at,
            refund_to=refund_to, job_id=None, k1=None, reason="", created_at=now, updated_at=now,
        )  # fmt: skip
        async with self._post.db.transaction() as tx:
            await queries.insert_order(tx, row)
            await queries.insert_invoice(tx, InvoiceRow(row.payment_hash, quote.id, "", "", "", now))
        self._spawn(self._drive(row.id))
        return row

    # From payment to result -------------------------------------------------------------------------------------------

    async def _drive(self, order_id: str) -> None:
        steps: dict[Stage, Callable[[LightningOrder], Awaitable[bool]]] = {
            Stage.UNPAID: self._await_payment, Stage.PAID: self._ask, Stage.ASKED: self._await_job,
        }  # fmt: skip
        while (row := await queries.order(self._post.db, order_id)) and row.state in OPEN_STAGES:
            try:
                moved = await steps[row.state](row)
            except WalletError as error:  # its mint is away, say
                log.warning("lightning_order_waits", stage=row.state, reason=str(error))
                moved = False
            if not moved:
                is_stale = _is_stale(row, self._post.clock.now())
                await self._post.clock.sleep(SLOW_POLL_SECONDS if is_stale else POLL_SECONDS)

    async def _await_payment(self, row: LightningOrder) -> bool:
        """By the state of the quote, never by its expiry: an invoice may be paid in its last second."""
        outcome = await self._post.wallet.claim(row.quote_id)
        if outcome is None:
            if self._post.clock.now() <= row.expires_at + QUOTE_GRACE_SECONDS:
                return False
            return await self._move(row, Stage.EXPIRED)
        if outcome.state is not State.DONE:
            return await self._move(row, Stage.FAILED, reason=outcome.error or "the mint gave no coins")
        return await self._move(row, Stage.PAID)

    async def _ask(self, row: LightningOrder) -> bool:
        async def write(tx: Transaction, job_id: str) -> None:
            if not await queries.move_order(tx, row, Stage.ASKED, now=self._post.clock.now(), job_id=job_id):
                raise GatewayRefused("this order is on its way already")

        try:
            await self._place(row, write)
        except DvmError as error:
            return await self._close(row, Stage.FAILED, str(error))
        return True

    async def _place(self, row: LightningOrder, also: Callable[[Transaction, str], Awaitable[None]]) -> None:
        """Ask the agent, with the sats that are now ours; `also` writes in the transaction of the order.

        The one place that chooses how the job is paid: in escrow if arbiters are named, and the agent serves it.
        """
        ways = (Method.ESCROW, Method.PREPAID) if self._arbiters else (Method.PREPAID,)
        await self._customer.ask(
            row.provider, row.input, kind=row.kind, max_sat=row.max_sat, params=orjson.loads(row.params),
            seconds_max=JOB_SECONDS_MAX, settle=ways, arbiters=self._arbiters, also=also,
        )  # fmt: skip

    async def _await_job(self, row: LightningOrder) -> bool:
        assert row.job_id is not None
        job = await dvm.queries.get_order(self._post.db, row.job_id)
        if job is None or not job.state.is_final:
            return False
        state = Stage.DONE if job.state is OrderState.DONE else Stage.FAILED
        return await self._close(row, state, job.reason if state is Stage.FAILED else "")

    # What is left -----------------------------------------------------------------------------------------------------

    async def _close(self, row: LightningOrder, state: Stage, reason: str) -> bool:
        """The order's end, and the promise of what is left of its sats by our own books, in one transaction."""
        spent_sat = await queries.spent_sat(self._post.db, row.job_id) if row.job_id else 0
        left_sat, k1 = row.amount_sat - spent_sat, None
        async with self._post.db.transaction() as tx:
            if row.refund_to != KEEP and payable_sat(left_sat) >= 1:
                about = f"left of order {row.payment_hash[:8]}"
                k1 = await self.withdrawals.promise(tx, mint=row.mint, owed_sat=left_sat, description=about)
            now = self._post.clock.now()
            if not await queries.move_order(tx, row, state, now=now, k1=k1, reason=reason):
                raise GatewayRefused("this order has ended already")
        log.info("lightning_order_ended", state=state, left_sat=left_sat)
        if k1 and row.refund_to and (ended := await queries.order(self._post.db, row.id)):
            self._spawn(self._refund(ended))
        return True

    async def _refund(self, row: LightningOrder) -> None:
        """Pay what is left to the address of the order. If that cannot be done, the k1 stays good for its owner."""
        assert row.k1 is not None
        delay_seconds = 1.0
        for _ in range(REFUND_TRIES_MAX):
            promised = await self.withdrawals.finish(row.k1)
            if promised.state is Withdrawal.PAID:
                return
            try:
                payable = await self._client.resolve(row.refund_to, 1000 * promised.pay_sat)
                await self.withdrawals.begin(row.k1, payable.bolt11)
                if (await self.withdrawals.finish(row.k1)).state is Withdrawal.PAID:
                    return
            except LimitExceeded as error:  # the service wants another amount, or the mint a larger reserve
                log.info("refund_amount_changes", reason=str(error))
            except WalletError as error:
                log.warning("refund_later", reason=str(error))
            await self._post.clock.sleep(delay_seconds)
            delay_seconds *= 2
        log.error("refund_stays", order=row.payment_hash[:8], next_step="its owner withdraws it by LNURL")

    async def _finish(self, k1: str) -> None:
        await self.withdrawals.finish(k1)

    async def _move(self, row: LightningOrder, state: Stage, *, reason: str = "") -> bool:
        async with self._post.db.transaction() as tx:
            return await queries.move_order(tx, row, state, now=self._post.clock.now(), reason=reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", exc_info=error)


def _is_stale(row: LightningOrder, now: int) -> bool:
    """Whether an invoice has run out; its quote is still asked for, now and then."""
    return row.state is Stage.UNPAID and now > row.expires_at


@asynccontextmanager
async def open_lightning_orders(
    settings: Settings, post: Post, customer: Customer, *, own: Collection[str] = ()
) -> AsyncIterator[LightningOrders]:
    """Started orders on an open post; `own` are keys of this post that are not in its folder."""
    client = LnurlClient(post.fetcher, allow_private=settings.allow_private_urls)
    known = await own_public_keys(settings, post.db)
    orders = LightningOrders(
        post,
        customer,
        client,
        own=known | set(own),
        arbiters=settings.arbiters,
        cap_sat=settings.custodial_sat_max,
    )
    await orders.start()
    try:
        yield orders
    finally:
        await orders.stop()


async def own_public_keys(settings: Settings, db: Database) -> frozenset[str]:
    """The keys of this post: those in its folder, and those that have served a job from it."""
    found = set(await dvm.queries.agents_that_served(db))
    for path in settings.key_file(CUSTOMER).parent.glob("*.nsec"):
        match read_key_file(path):
            case SecretKey(public_key=public_key):
                found.add(public_key)
            case BunkerUrl() as url:
                found.add(memory_of(settings, path.stem, url.remote_key).public_key)
            case _:  # under a password; if it is of our words, they tell
                found.add(read_seed(settings).identity(path.stem).public_key)
    return frozenset(found)


async def find_order(post: Post, order_id: str) -> LightningOrder:
    """One order by its id. Raises `InvalidLnurl` if there is none."""
    row = await queries.order(post.db, order_id)
    if row is None:
        raise InvalidLnurl("there is no such order here")
    return row
