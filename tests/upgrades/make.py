"""Writes the database of a busy post of a release, and what its mint knows: the data files in `0.1.0/`, `0.2.0/`.

Run on the release itself (0.1.0 is 84e32be, 0.2.0 is e7d358d), never on today's code:

    git archive 84e32be | tar -x -C OUT/release
    cd OUT/release && PYTHONPATH=. python PATH/TO/tests/upgrades/make.py PATH/TO/tests/upgrades/0.1.0

Jobs, payments and orders are brought to every state they can be in by what brings them there in life; then, with
operations of every kind open, a copy of the database is taken as SIGKILL would leave it.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from dvm import Agent, Job, JobFailed, OrderState, Provider, ProviderLimits
from dvm.nip90 import Offer, Status, make_feedback, make_result
from identity import LocalSigner, SecretKey, make_template, sign_event
from identity.nip59 import unwrap, wrap
from relay_bridge import ConnectionLost, Filter
from tradepost.api import open_customer
from tradepost.post import open_post, own_key, read_seed
from tradepost.settings import Settings
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay
from tradepost.testing.mint import Melts
from wallet import (
    MintUnavailable,
    P2PKLock,
    PaymentPayload,
    Token,
    encode_payload,
    encode_token,
    parse_payload,
)
from wallet.mint import MintTransport

NOW = 1_760_000_000
UP, DOWN = "ws://relay.test", "ws://down.test"


class CutMint(MemoryMint):
    """Loses the answer to the next request at `cut`, and then the question what became of it."""

    cut: tuple[str, str] | None = None

    async def request(self, method: str, path: str, body: dict | None) -> object:
        cut = self.cut
        if cut is None or not path.startswith(cut[0]):
            return await super().request(method, path, body)
        self.cut = None
        await super().request(method, path, body)
        self.lose_request(cut[1])
        raise MintUnavailable("cut")


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await is_so():
            await asyncio.sleep(0.01)


class Busy:
    """One post, an agent and a customer on it, and the strangers around it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOW)
        self.relay = MemoryRelay(clock=self.clock)
        self.mint = CutMint(clock=self.clock)
        self.settings = Settings(relays=(UP, DOWN), mints=(self.mint.url,), data=folder / "post")
        self.others = Settings(relays=(UP,), mints=(self.mint.url,), data=folder / "others")
        self.stranger = SecretKey.generate()
        self.gate = asyncio.Event()
        self.agent = self.make_agent()

    def make_agent(self) -> Agent:
        agent = Agent("Busy", about="Has a lot to do")

        @agent.serves(kind=5001, price_sat=21)
        async def shout(job: Job) -> str:
            return job.text.upper()

        @agent.serves(kind=5002)
        async def whisper(job: Job) -> str:
            if job.text == "WAIT":
                await self.gate.wait()
            return job.text.lower()

        @agent.serves(kind=5050, price_sat=21)
        async def fail(job: Job) -> str:
            if job.text == "cut":
                self.mint.cut = "/v1/swap", "/v1/checkstate"
            raise JobFailed("cannot do it")

        return agent

    async def connect(self, url: str) -> object:
        if DOWN in url:
            raise ConnectionLost("it is down")
        return await self.relay.connect(url)

    def transport(self, url: str) -> MintTransport:
        return self.mint.transport(url)

    # -- the strangers

    def request(self, kind: int, text: str, *tags: tuple[str, ...]) -> str:
        template = make_template(kind, tags=[("i", text, "text"), *tags], created_at=self.clock.now())
        event = sign_event(template, self.stranger)
        self.relay.insert(event)
        return event.id

    async def offer_for(self, job_id: str) -> Offer:
        found = []

        async def is_there() -> bool:
            found[:] = [
                e for e in self.relay.events if e.tag("e") == job_id and e.tag("status") == "payment-required"
            ]
            return bool(found)

        await until(is_there)
        return found[0]

    async def pay(self, job_id: str, token: Token) -> None:
        payload = PaymentPayload(mint=token.mint, unit=token.unit, proofs=token.proofs, id=job_id)
        now, to = self.clock.now(), self.provider.public_key
        message = make_template(14, content=encode_payload(payload), tags=[("p", to)], created_at=now)
        self.relay.insert(await wrap(LocalSigner(self.stranger), to, message, now=now))

    async def pay_offer(self, job_id: str, sat: int = 22) -> None:
        offer = await self.offer_for(job_id)
        lock = P2PKLock(offer.tag("lock"))
        await self.pay(job_id, await self.purse.send(self.mint.url, sat, lock=lock))

    async def job_is(self, job_id: str, state: str) -> None:
        await until(lambda: self.has("jobs", "id", job_id, state))

    async def payment_is(self, job_id: str, state: str) -> None:
        await until(lambda: self.has("payments", "job_id", job_id, state))

    async def order_is(self, order_id: str, state: str) -> None:
        await until(lambda: self.has("orders", "id", order_id, state))

    async def has(self, table: str, column: str, name: str, state: str) -> bool:
        return bool(
            await self.post.db.all(f"SELECT 1 FROM {table} WHERE {column} = ? AND state = ?", name, state)
        )

    async def open_op(self, op_id: str) -> None:
        async def is_so() -> bool:
            rows = await self.post.db.all("SELECT state FROM wallet_operations WHERE op_id = ?", op_id)
            return self.mint.cut is None and [row["state"] for row in rows] == ["open"]

        await until(is_so)

    async def answer_order(self, rogue: "Rogue", text: str, **options: int) -> str:
        order = await self.customer.ask(rogue.key.public_key, text, kind=5001, max_sat=50, **options)
        return order.id

    # -- the story

    async def selling_before(self) -> None:
        """Jobs that have ended, those for whose end time must pass first."""
        expired = self.request(5001, "never paid")
        await self.offer_for(expired)
        await self.clock.advance(1000)
        await self.job_is(expired, "expired")
        await self.job_is(self.request(5002, "QUIET"), "done")
        await self.job_is(self.request(5002, "x", ("i", "https://x.test", "url")), "failed")
        done = self.request(5001, "loud")
        await self.pay_offer(done)
        await self.job_is(done, "done")
        returned = self.request(5050, "fails")
        await self.pay_offer(returned)
        await self.job_is(returned, "returned")
        spent = await self.purse.send(self.mint.url, 22)
        await self.other.receive(spent)
        refused = self.request(5001, "with spent coins", ("cashu", encode_token(spent)))
        await self.payment_is(refused, "refused")

    async def buying_before(self) -> None:
        """Orders that have ended, and those that wait for their locktime."""
        rogue = Rogue(self)
        expired = await self.answer_order(rogue, "nobody answers", seconds_max=60)
        failed = await self.answer_order(rogue, "too dear")
        await rogue.offer(failed, price_sat=1000)
        await self.order_is(failed, OrderState.FAILED)
        done = await self.answer_order(rogue, "a result comes")
        await rogue.offer(done)
        await self.order_is(done, OrderState.PAID)
        await rogue.deliver(done, "here it is")
        await self.order_is(done, OrderState.DONE)
        refunded = await self.answer_order(rogue, "a refund comes")
        await rogue.offer(refunded)
        await self.order_is(refunded, OrderState.PAID)
        await rogue.send_back(refunded, await self.other.send(self.mint.url, 21))
        await self.order_is(refunded, OrderState.REFUNDED)
        lost = await self.answer_order(rogue, "taken", seconds_max=60)
        await rogue.offer(lost, locktime_seconds=300)
        await self.order_is(lost, OrderState.PAID)
        await self.other.receive(await rogue.token(lost), [rogue.lock])
        waiting = await self.answer_order(rogue, "locked for long", seconds_max=60)
        await rogue.offer(waiting, locktime_seconds=4 * 3600)
        reclaiming = await self.answer_order(rogue, "being taken back", seconds_max=60)
        await rogue.offer(reclaiming, locktime_seconds=600)
        for order in (waiting, reclaiming):
            await self.order_is(order, OrderState.PAID)
        await self.clock.advance(62)
        for order in (waiting, reclaiming):
            await self.order_is(order, OrderState.AWAITING_REFUND)
        await self.order_is(expired, OrderState.EXPIRED)
        await self.clock.advance(300)
        await self.order_is(lost, OrderState.LOST)
        self.mint.cut = "/v1/swap", "/v1/checkstate"
        await self.clock.advance(300)
        await self.open_op(f"reclaim:{reclaiming}:0")

    async def under_way(self) -> None:
        """From here on the clock stands still, so what is cut stays open."""
        rogue = Rogue(self)
        await self.answer_order(rogue, "just asked", seconds_max=3000)
        paid = await self.answer_order(rogue, "paid and waiting", seconds_max=3000)
        await rogue.offer(paid, locktime_seconds=5000)
        await self.order_is(paid, OrderState.PAID)
        paying = await self.answer_order(rogue, "being paid", seconds_max=3000)
        self.mint.cut = "/v1/swap", "/v1/checkstate"
        await rogue.offer(paying, locktime_seconds=5000)
        await self.open_op(f"order:{paying}")

        await self.offer_for(self.request(5001, "offered"))
        returning = self.request(5050, "cut")
        await self.pay_offer(returning)
        await self.job_is(returning, "returning")
        await self.payment_is(returning, "returning")
        await until(self.is_cut)
        redeeming = self.request(5001, "being redeemed")
        await self.offer_for(redeeming)
        token = await self.purse.send(self.mint.url, 22)
        self.mint.cut = "/v1/swap", "/v1/checkstate"
        await self.pay(redeeming, token)
        await self.payment_is(redeeming, "redeeming")
        await until(self.is_cut)
        received = self.request(5001, "payment to be judged")
        await self.offer_for(received)
        token = await self.purse.send(self.mint.url, 22)
        self.mint.lose_request("/v1/checkstate")
        await self.pay(received, token)
        await self.payment_is(received, "received")
        await self.job_is(self.request(5002, "WAIT"), "running")
        await self.job_is(self.request(5002, "NEXT"), "queued")

    async def is_cut(self) -> bool:
        return self.mint.cut is None

    async def money(self) -> None:
        """Operations of the wallet alone."""
        wallet, mint = self.post.wallet, self.mint
        await wallet.send(mint.url, 5)  # a token that nobody claimed yet
        await wallet.mint_quote(mint.url, 7)
        quote = await wallet.mint_quote(mint.url, 64)
        mint.pay(quote.bolt11)
        mint.cut = "/v1/mint/bolt11", "/v1/mint/quote/bolt11/"
        mint.melts = Melts.PENDING
        for step in (wallet.claim(quote.id), wallet.pay(mint.url, mint.invoice(30))):
            try:
                await step
            except MintUnavailable:
                continue
            raise AssertionError("it should be open")
        await wallet.plan_send(mint.url, 3, op_id="planned", purpose="never recorded")

    async def letters(self) -> None:
        """An event that its handler could not deal with yet."""

        async def fail(_delivery: object) -> None:
            raise RuntimeError("not now")

        await self.post.inbox.follow("notes", [Filter(kinds=(1,))], fail, margin_seconds=60)
        self.relay.insert(
            sign_event(make_template(1, content="read me", created_at=self.clock.now()), self.stranger)
        )
        await until(lambda: self.has("inbox", "name", "notes", "open"))

    async def live(self, out: Path) -> None:
        async with (
            open_post(self.settings, clock=self.clock, connect=self.connect, transport=self.transport) as self.post,
            open_post(self.others, clock=self.clock, connect=self.connect, transport=self.transport) as others,
        ):  # fmt: skip
            self.purse = self.other = others.wallet
            for wallet in (self.post.wallet, others.wallet):
                quote = await wallet.mint_quote(self.mint.url, 1000)
                self.mint.pay(quote.bolt11)
                await wallet.claim(quote.id)
            signer = LocalSigner(own_key(self.settings, self.agent.slug))
            limits = ProviderLimits(concurrent_jobs_max=1)
            self.provider = Provider(self.agent, signer, self.post, limits)
            await self.provider.start()
            async with open_customer(self.settings, self.post) as self.customer:
                await self.buying_before()
                await self.selling_before()
                await self.buying_again()
                await self.under_way()
                await self.letters()
                await self.money()
                self.write(out)
                self.gate.set()
                self.mint.finish_melt(paid=True)
                await self.provider.stop(0)

    async def buying_again(self) -> None:
        """What `selling_before` let time pass for: the reclaim that was open then is open no more."""
        rogue = Rogue(self)
        order = await self.answer_order(rogue, "being taken back again", seconds_max=30)
        await rogue.offer(order, locktime_seconds=60)
        await self.order_is(order, OrderState.PAID)
        await self.clock.advance(31)
        await self.order_is(order, OrderState.AWAITING_REFUND)
        self.mint.cut = "/v1/swap", "/v1/checkstate"
        await self.clock.advance(31)
        await self.open_op(f"reclaim:{order}:0")

    def write(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        source = sqlite3.connect(self.settings.database)
        copy = sqlite3.connect(":memory:")
        source.backup(copy)
        (out / "post.sql").write_text("\n".join(copy.iterdump()) + "\n", encoding="utf-8")
        mint = self.mint
        known = {
            "url": mint.url, "fees_sat": mint.fees_sat, "signed": mint.signed, "pending": sorted(mint._pending),
            "spent": {y: asdict(proof) for y, proof in mint.spent.items()},
            "keysets": [asdict(keyset) for keyset in mint.keysets.values()],
            "secrets": {k: {a: s.hex() for a, s in v.items()} for k, v in mint._secrets.items()},
            "mint_quotes": [asdict(quote) for quote in mint._mint_quotes.values()],
            "melt_quotes": [asdict(quote) for quote in mint._melt_quotes.values()],
        }  # fmt: skip
        post = {"now": self.clock.now(), "words": read_seed(self.settings).words, "keys": {}}
        for name in ("customer", self.agent.slug):
            post["keys"][name] = own_key(self.settings, name).hex()
        for name, value in (("mint.json", known), ("post.json", post)):
            (out / name).write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


class Rogue:
    """A provider that does what the story wants."""

    def __init__(self, busy: Busy) -> None:
        self.busy = busy
        self.key, self.lock = SecretKey.generate(), SecretKey.generate()

    async def request(self, order_id: str) -> object:
        async def is_there() -> bool:
            return any(event.id == order_id for event in self.busy.relay.published)

        await until(is_there)
        return next(event for event in self.busy.relay.published if event.id == order_id)

    async def offer(self, order_id: str, *, price_sat: int = 21, locktime_seconds: int = 3000) -> None:
        now = self.busy.clock.now()
        offer = Offer(
            price_msat=price_sat * 1000, mints=(self.busy.mint.url,), lock=self.lock.compressed_public_key,
            locktime=now + locktime_seconds, settle=("prepaid",),
        )  # fmt: skip
        request = await self.request(order_id)
        template = make_feedback(request, Status.PAYMENT_REQUIRED, now=now, tags=offer.to_tags())
        self.busy.relay.insert(sign_event(template, self.key))

    async def deliver(self, order_id: str, content: str) -> None:
        request = await self.request(order_id)
        template = make_result(request, content, price_msat=0, now=self.busy.clock.now())
        self.busy.relay.insert(sign_event(template, self.key))

    async def token(self, order_id: str) -> Token:
        found: list[Token] = []

        async def is_there() -> bool:
            for event in self.busy.relay.published:
                if event.kind == 1059 and event.tag("p") == self.key.public_key:
                    payload = parse_payload((await unwrap(LocalSigner(self.key), event)).content)
                    if payload.id == order_id:
                        found.append(Token(payload.mint, payload.proofs, payload.unit))
            return bool(found)

        await until(is_there)
        return found[0]

    async def send_back(self, order_id: str, token: Token) -> None:
        now, to = self.busy.clock.now(), self.busy.customer.public_key
        tags = [("p", to), ("e", order_id), ("t", "refund")]
        message = make_template(14, content=encode_token(token), tags=tags, created_at=now)
        self.busy.relay.insert(await wrap(LocalSigner(self.key), to, message, now=now))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(Busy(Path(scratch)).live(Path(sys.argv[1])))
