"""The other side of the counter: ask an agent, pay what it asks, wait for the result, get the money back if none comes.

Inbox: feedback, results and gift wraps to our key. Duty: every order ends, and no sat of it is forgotten. An order
begins in `asking.py`, what agents send is read in `replies.py`, offers are taken in `offers.py`, and
each step is written in `book.py`; work that any agent may do is ordered by `guarantees.py`. Orders live in the
store: a customer that was killed goes on with them when it is opened again, pays nothing twice, and takes locked coins
back after their locktime.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from dvm import queries
from dvm.errors import BadRequest
from dvm.escrow.fee import pay_arbiter
from dvm.escrow.messages import Wishes
from dvm.escrow.parties import CustomerDesk
from dvm.kinds import FEEDBACK, result_kind
from dvm.nip90 import Input
from dvm.orders.asking import OrderAsking, Wanted
from dvm.orders.book import OrderBook
from dvm.orders.escrows import OrderEscrows
from dvm.orders.guarantee_lifecycle import GuaranteeState
from dvm.orders.guarantees import Guarantees
from dvm.orders.hiring import Buyer, Task, guarantee_id_of
from dvm.orders.lifecycle import OrderState, TakenBack
from dvm.orders.offers import OrderOffers
from dvm.orders.order import Guarantee, Order
from dvm.orders.purchases import Purchases
from dvm.orders.replies import OrderReplies
from dvm.patience import PatientSigner
from dvm.post import ANSWER_MARGIN_SECONDS, WRAP_MARGIN_SECONDS, Post
from dvm.queries import OrderRow
from dvm.queries_guarantees import end_guarantee
from dvm.reputation.reviewing import Reviewing
from identity import Event, Signer
from relay_bridge import Delivery, Filter, Following
from relay_bridge.tasks import Tasks
from store import Transaction
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method


class Customer:
    """Asks agents for work with one key and one wallet. `start` goes on with what an earlier process left."""

    def __init__(self, signer: Signer, post: Post) -> None:
        self.signer = signer
        self._post = post
        self._followings: dict[str, Following] = {}
        self._beginning = asyncio.Lock()  # two first orders of a kind at once follow its results once
        self._tasks = tasks = Tasks()
        patient = PatientSigner(signer, post.clock)  # for all that nobody waits for
        self._book = book = OrderBook(
            post, patient, tasks, cancel=self.cancel, reclaim=self._reclaim, told=self._told
        )
        self._escrows = OrderEscrows(post, patient, tasks, book, self._owes_fee)
        self._purchases = Purchases(post, patient, self.desk, book.apply)
        self._asking = OrderAsking(
            post, signer, book, lock_key=self._purchases.lock_key, listen=self._follow_results
        )
        self._replies = OrderReplies(
            post, patient, tasks, book=book, escrows=self._escrows, purchases=self._purchases,
            offers=OrderOffers(post, book, self._purchases, self.desk, tasks),
        )  # fmt: skip
        self._guarantees = Guarantees(post, signer, tasks, book, self._asking, catch_up=self.caught_up)
        self._reviewing = Reviewing(post, signer, self.desk, self._purchases.lock_key)

    @property
    def desk(self) -> CustomerDesk:
        """What of this customer's money is in escrow."""
        return self._escrows.desk

    @property
    def public_key(self) -> str:
        """Who asks."""
        return self.signer.public_key

    async def start(self) -> None:
        """Listen for answers and resume open orders."""
        self._post.pool.add_signer(self.signer)
        me = {"p": (self.public_key,)}
        await self._follow("feedback", Filter(kinds=(FEEDBACK,), tags=me), self._replies.on_feedback)
        await self._follow(
            "wraps", Filter(kinds=(1059, 21059), tags=me), self._replies.on_wrap, WRAP_MARGIN_SECONDS
        )
        await self.desk.start()
        for row in await queries.open_orders(self._post.db, self.public_key):
            await self._follow_results(row.kind)
            self._book.watch(row)
            if row.state is OrderState.PAYING:
                self._tasks.start(self._purchases.pay(row.id), f"pay:{row.id}")
            if row.refund_op_id:
                settling = self._purchases.settle_refund(row.id, row.refund_op_id)
                self._tasks.start(settling, row.refund_op_id)
        await self._guarantees.start()

    @property
    def is_listening(self) -> bool:
        """Whether answers reach it now, of each sort from one relay at least."""
        return bool(self._followings) and all(one.is_current for one in self._followings.values())

    async def caught_up(self, seconds: int) -> bool:
        """Read and handle what relays have for us now; False if none told all of it in that time."""
        following = [one.read(patience_seconds=seconds) for one in self._followings.values()]
        return all(await asyncio.gather(*following))

    async def stop(self) -> None:
        """Stop listening. Open orders stay in the store and go on at the next start."""
        await self._tasks.close()  # first what may begin to follow another kind
        for following in self._followings.values():
            await following.close()
        await self.desk.stop()
        await self._tasks.close()  # what the last handlers began

    async def ask(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int,
        max_sat: int = 0,
        params: Mapping[str, str | Sequence[str]] | None = None,
        private: bool = False,
        seconds_max: int = 600,
        arbiters: Sequence[str] = (),
        settle: Sequence[Method] = (Method.PREPAID,),
        review: bool = False,
        pow_bits: int = 0,
        also: Callable[[Transaction, str], Awaitable[None]] | None = None,
    ) -> Order:
        """Publish a request and return the order at once; it is on disk when this returns.

        `target`: an npub, a key in hex, or a word for a capability (a live agent is then chosen by its announcement).
        `max_sat` bounds the price; the mint's fee of a sat or two comes on top. 0: only free work is accepted.
        `private`: only the agent can read what is asked (NIP-44), and answers so too; one that does not is not paid.
        `settle`: the ways to pay that will do, the best first; `escrow` needs `arbiters` that we trust (keys in hex).
        `review`: a result in escrow waits for `accept` or `dispute`; else it is paid for when it comes, and in any case
        when its time for review is over.
        `pow_bits`: proof of work on the request (NIP-13), as some agents ask of strangers; each bit doubles the time.
        `also` writes in the transaction that makes the order, whose id it is given.
        Raises `BadRequest`, also for a request too large for relays, `NoAgentFound`, and `MiningError`.
        """
        wanted = Wanted(
            target=target, text=text, kind=kind, max_sat=max_sat, params=params or {}, private=private,
            seconds_max=seconds_max, arbiters=arbiters, settle=settle, review=review, pow_bits=pow_bits,
        )  # fmt: skip
        return await self._asking.place(wanted, also)

    async def hire(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int,
        max_sat: int = 0,
        params: Mapping[str, str | Sequence[str]] | None = None,
        private: bool = False,
        seconds_max: int = 600,
        arbiters: Sequence[str] = (),
        settle: Sequence[Method] = (Method.PREPAID,),
        review: bool = False,
        pow_bits: int = 0,
        others: bool = True,
        avoid: Sequence[str] = (),
        own: Sequence[str] = (),
        name: str = "",
        buyer: Buyer | None = None,
    ) -> Guarantee:
        """Have work done, by one agent or by the next one if it does not deliver; on disk when this returns.

        As `ask`, but `max_sat` and `seconds_max` are for all agents together. One that gives no sign of life, refuses,
        fails or is late is left: its money is taken back first, and what stays locked counts against `max_sat`, with
        the fees of what came back. The first result ends it, also that of an agent that was left, if it still has our
        coins.
        `target`: a word for a capability, or the agent to begin with; with `others` False it is the only one.
        `avoid`: keys that are not asked; `own`: keys that are paid in advance, whatever `settle` says, being ours.
        `name`: the same name is the same work, in every process (`guarantee_id`): it goes on, or its result is there,
        and nothing is paid again. `buyer` is checked in the transaction that begins it.
        Raises `BadRequest`, `NoAgentFound`, and `AllowanceExceeded` for a `buyer`.
        """
        wanted = Wanted(
            target=target, text=text, kind=kind, max_sat=max_sat, params=params or {}, private=private,
            seconds_max=seconds_max, arbiters=arbiters, settle=settle, review=review, pow_bits=pow_bits,
        )  # fmt: skip
        task = Task(wanted=wanted, others=others, avoid=tuple(avoid), own=tuple(own))
        return await self._guarantees.begin(task, name=name, buyer=buyer)

    def guarantee_id(self, name: str) -> str:
        """The id of work that was hired for, or will be, under that name."""
        return guarantee_id_of(self.public_key, name)

    def guarantee(self, guarantee_id: str) -> Guarantee | None:
        """Work in hand; None once it has ended, and all that is not needed any more was taken back."""
        return self._guarantees.get(guarantee_id)

    async def call_off(self, guarantee_id: str) -> None:
        """End work in hand, whoever is at it: what is asked is taken back, and what is paid comes back as ever.

        What is delivered nevertheless is taken, and paid for. Raises `BadRequest` if it has ended.
        """
        if not await self._guarantees.call_off(guarantee_id):
            raise BadRequest(f"job {guarantee_id[:12]} has ended: there is nothing to call off any more")

    def open_guarantees(self) -> list[Guarantee]:
        """Work that was hired for and has not ended, that of earlier processes included."""
        return self._guarantees.open()

    async def drop(self, tx: Transaction, allowance: str, job_id: str) -> None:
        """Let nothing more be bought for a job of an agent of ours; what was asked is taken back after `tx`."""
        await self._guarantees.drop(tx, allowance, job_id)

    async def accept(self, order_id: str) -> None:
        """Pay for a result that is in escrow. Raises `BadRequest` if there is none to accept."""
        await self.desk.wish(order_id, Wishes("accept"))

    async def dispute(self, order_id: str, reason: str) -> None:
        """Refuse to pay for a result that is in escrow: its arbiter rules. Raises `BadRequest` if it is too late.

        If the arbiter named a fee for that (`Terms.arbiter_fee_sat`), it is paid by an order of its own, from here on.
        """
        await self.desk.wish(order_id, Wishes("dispute", reason))

    async def cancel(self, order_id: str) -> None:
        """Take a request back (NIP-09). Unpaid, the order ends here; a paid one waits for what the agent says.

        An agent returns the money if it had not begun to work. Raises `BadRequest` if there is nothing to take back.
        """
        row = await self._own(order_id)
        now = self._post.clock.now()

        async def end(tx: Transaction) -> None:  # else another agent would be asked now
            if row.guarantee_id:
                failed = GuaranteeState.FAILED
                await end_guarantee(tx, row.guarantee_id, failed, now=now, reason="cancelled")

        if not await self._book.take_back(row, TakenBack(), self.signer, also=end):
            raise BadRequest(f"job {order_id[:12]} is {row.state}: there is nothing to cancel any more")
        self._told(row)

    async def review(self, order_id: str, rating: int, text: str = "") -> Event:
        """Say for all to read how a job was that has ended: `rating` is 1 … 5, `text` at most 2000 characters.

        Returns the signed event (kind 1985, docs/receipts.md); it is on disk, and on its way to our relays and the
        agent's. It holds the proof of payment: coins that the mint calls spent, or the invoice's preimage. Free work
        can be reviewed too, but readers count what was paid for. A job has one review: the same again returns the same
        event.
        Raises `BadRequest` for another one, and for a job that is not settled (`Action.WAIT` where time will tell), or
        that nothing was paid for; `WalletError` if the mint does not answer: try again later.
        """
        return await self._reviewing.write(await self._own(order_id), rating, text)

    async def result(self, order_id: str) -> str | None:
        """The text that an order brought; None if there is none. Raises `BadRequest`, `SignerUnavailable`."""
        return await self._book.text(await self._own(order_id))

    async def _own(self, order_id: str) -> OrderRow:
        row = await queries.get_order(self._post.db, order_id)
        if row is None or row.customer != self.public_key:
            raise BadRequest(f"no order of this customer has the id {order_id[:64]!r}")
        return row

    async def open_orders(self) -> list[Order]:
        """Orders that have not ended, those of earlier processes included."""
        return [self._book.handle(row) for row in await queries.open_orders(self._post.db, self.public_key)]

    async def _follow(
        self,
        name: str,
        what: Filter,
        handler: Callable[[Delivery], Awaitable[None]],
        margin: int = ANSWER_MARGIN_SECONDS,
    ) -> None:
        async with self._beginning:
            if name not in self._followings:
                self._followings[name] = await self._post.inbox.follow(
                    f"{name}:{self.public_key}",
                    [what],
                    handler,
                    margin_seconds=margin,
                    backlog_seconds=margin,
                )

    async def _follow_results(self, kind: int) -> None:
        what = Filter(kinds=(result_kind(kind),), tags={"p": (self.public_key,)})
        await self._follow(f"results-{kind}", what, self._replies.on_result)

    async def _reclaim(self, order_id: str) -> None:
        await self._purchases.reclaim(order_id)

    def _told(self, row: OrderRow) -> None:
        self._guarantees.notice(row)

    def _owes_fee(self, escrow: EscrowRow) -> None:
        hearing = pay_arbiter(escrow.request_id, desk=self.desk, ask=self.ask, clock=self._post.clock)
        self._tasks.start(hearing, f"fee:{escrow.request_id}")
