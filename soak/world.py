"""A customer, a provider and an arbiter with a mint and relays between them: started, killed and started again."""

import asyncio
import copy
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import bolt11

from dvm import Agent, Customer, Job, JobFailed, Post, Provider, ProviderLimits, queries_invoices
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from dvm.jobs.lifecycle import PaymentState
from dvm.queries import PaymentRow
from identity import LocalSigner
from relay_bridge import Mailboxes
from soak.life import Dead, Fate, InlineDatabase, Life, SimDatabase, Trace, adopt_tasks
from soak.office import Mailbox, Office, SimInbox, SimOutbox, SimPool
from soak.virtual import EPOCH, VirtualClock, run_virtually
from soak.weather import StormyRail, StormyTransport, Weather
from store import Database
from tradepost.post import all_migrations
from tradepost.testing.lightning import MemoryLightning
from tradepost.testing.mint import MemoryMint
from wallet import Seed, Wallet, counters
from wallet.operations import Output, Role
from wallet.operations_coins import make_outputs
from wallet.rails import Lightning

FUNDED_SAT: Final = 40
PRICE_SAT: Final = 7
EARLIER_SAT: Final = (
    5 * PRICE_SAT
)  # what the provider got of the customer before: what it may do first, at its risk
RAIL_SAT: Final = 40  # in each Lightning wallet
RAIL_FEE_SAT: Final = 1
KIND: Final = 5001
RESULT: Final = "done"
NAMES: Final = ("customer", "provider", "arbiter")
WORDS: Final = {
    "customer": "legal winner thank year wave sausage worth useful legal winner thank yellow",
    "provider": "letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
    "arbiter": "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
}
REVIEW_SECONDS: Final = 60
DISPUTE_SECONDS: Final = 600
DELIVER_SECONDS: Final = 300
WORK_SECONDS_MAX: Final = 500
LOCK_SECONDS: Final = 600  # of what is paid in advance
RECOVER_SECONDS: Final = 60


@dataclass
class Ground:
    """What every run begins with: three databases with their schema, and a mint that two of the parties have probed.

    `sats` and `fees_sat`: what each wallet has, and what the mint has taken of it so far.
    """

    folder: Path
    mint: MemoryMint
    seeds: dict[str, Seed]
    sats: dict[str, int] = field(default_factory=dict)
    fees_sat: dict[str, int] = field(default_factory=dict)


@cache
def ground() -> Ground:
    """Made once for all runs of a process; its folder goes with the process."""
    holder = tempfile.TemporaryDirectory(prefix="tradepost-soak-")
    folder, mint = Path(holder.name), MemoryMint(clock=VirtualClock())
    mint.holder = holder  # type: ignore[attr-defined]  # so that it lives as long as what is made here
    seeds = {name: Seed.from_words(words) for name, words in WORDS.items()}

    made = Ground(folder, mint, seeds)

    async def make() -> None:
        for name in NAMES:
            async with await InlineDatabase.open(folder / name, all_migrations()) as db:
                wallet = Wallet.open(
                    db, seeds[name], clock=VirtualClock(), mints=[mint.url], transport=mint.transport
                )
                async with wallet:
                    await _fund(wallet, mint, 0 if name == "arbiter" else FUNDED_SAT)
                    if name == "provider":
                        await _sold_before(db, seeds)
                    report = await wallet.audit()
                    made.sats[name] = sum((await wallet.balance()).values())
                    made.fees_sat[name] = report.accounts.get("fees/mint", 0) // 1000

    run_virtually(make, 0)
    return made


async def _fund(wallet: Wallet, mint: MemoryMint, sat: int) -> None:
    await wallet.least_fee(mint.url, 1)  # so that the keysets are known from before
    if sat:
        quote = await wallet.mint_quote(mint.url, sat)
        mint.pay(quote.bolt11)
        await wallet.claim(quote.id)
        await wallet.probe(mint.url)


async def _sold_before(db: Database, seeds: dict[str, Seed]) -> None:
    """Let the provider have been paid by this customer once: only such customers are served first."""
    agent, customer = (seeds[name].identity(name).public_key for name in ("provider", "customer"))
    payment = PaymentRow(
        id="earlier", agent=agent, job_id="earlier", payer=customer, public=False, state=PaymentState.REDEEMED,
        token="spent long ago", amount_sat=EARLIER_SAT, op_id=None, reason="", created_at=EPOCH - 86_400,
    )  # fmt: skip
    async with db.transaction() as tx:
        await queries_invoices.insert_paid(tx, payment)


@contextmanager
def known_by_heart() -> Iterator[None]:
    """Let what all runs compute alike be computed once: the hundred outputs by which a wallet checks its counter, and
    what an invoice says.
    """
    with patch.object(counters, "make_outputs", _remembered), patch.object(bolt11, "decode", _read):
        yield


_read = lru_cache(1000)(bolt11.decode)


@cache
def _scan(words: str, keyset_id: str, count: int, first_counter: int) -> tuple[Output, ...]:
    return make_outputs(
        Seed.from_words(words), keyset_id, [(Role.BLANK, 0)] * count, first_counter=first_counter, attempt=0
    )


def _remembered(seed: Seed, keyset_id: str, wanted: Any, *, first_counter: int, attempt: int) -> Any:
    assert attempt == 0
    return _scan(seed.words, keyset_id, len(wanted), first_counter)


def copied(mint: MemoryMint) -> MemoryMint:
    """A mint that has done what this one has, and goes its own way."""
    twin = copy.copy(mint)
    twin.__dict__ |= {
        name: copy.copy(value)
        for name, value in mint.__dict__.items()
        if isinstance(value, dict | set | list)
    }
    twin.asked = copy.copy(mint.asked)
    twin.__dict__.pop("holder", None)
    return twin


class Outside:
    """What outlives the parties' processes: mint, Lightning, relays, what their outboxes and inboxes have on disk."""

    def __init__(self, draw: random.Random) -> None:
        self.mint = copied(ground().mint)
        self.network = MemoryLightning(clock=VirtualClock(), fee_msat=1000 * RAIL_FEE_SAT)
        self.rails = {name: self.network.rail(sat=RAIL_SAT) for name in NAMES}
        self.rails_sat = dict.fromkeys(NAMES, RAIL_SAT)  # at the start
        self.office = Office(draw)
        self.mailboxes = {name: Mailbox() for name in NAMES}
        self.key_shown = False  # by the provider, to the mint: that of a sealed result
        self.left: set[str] = set()  # who went for good
        self.orders: list[str] = []
        self.time = 0.0

    def make_poor(self, name: str) -> None:
        """Take what is in a party's Lightning wallet."""
        self.rails[name].msat = self.rails_sat[name] = 0


class Party:
    """One of the three, through all its lives. What outlives them: its files, its mailbox, its fate."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.fate = Fate(world.strikes)
        self.mailbox = world.outside.mailboxes[name]
        self.seed = ground().seeds[name]
        self.signer = LocalSigner(self.seed.identity(name))
        self.path = world.folder / name
        self.clock = VirtualClock(world.weather.skews.get(name, 0))
        self.life: Life | None = None
        self.post: Post
        self.role: Any = None
        self.lives = 0
        self.errors: list[BaseException] = []
        #: Called with its software before that starts: this is where parties begin to cheat.
        self.began: Callable[[Any], None] = lambda _role: None

    @property
    def key(self) -> str:
        """Its public key."""
        return self.signer.public_key

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.life is not None and not self.life.died.is_set()

    async def start(self, *, acts: bool = True) -> None:
        """A new process on what the last one left; it may die as it starts. Not `acts`: only its wallet is opened."""
        life = self.life = Life(self.name, self.clock, self.fate, self.world.trace)
        self.lives += 1
        self.role = None
        world = self.world
        life.disk_seconds = lambda: (
            world.weather.slow_disks and world.office.draw.random() * world.weather.slow_disks
        )
        life.db = await SimDatabase.open_for(life, self.path)
        dying = asyncio.ensure_future(life.died.wait())
        await asyncio.wait([life.spawn(self._open(life, acts)), dying], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()

    async def _open(self, life: Life, acts: bool) -> None:
        world = self.world
        wallet = Wallet.open(
            life.db, self.seed, clock=self.clock, mints=[world.mint.url],
            transport=lambda _url: StormyTransport(world, life),
        )  # fmt: skip
        outbox = SimOutbox(life, world.office, self.mailbox, self.key)
        pool = SimPool(life, world.office, self.key)
        self.post = Post(
            db=life.db, clock=self.clock, pool=pool, outbox=outbox,  # type: ignore[arg-type]  # twins
            mailboxes=Mailboxes(life.db, pool, outbox, self.clock),  # type: ignore[arg-type]  # not opened: nobody is looked up
            inbox=SimInbox(life, world.office, self.mailbox, self.key), fetcher=None,  # type: ignore[arg-type]  # nor URLs
            wallet=wallet, seed=self.seed,
            lightning=Lightning(life.db, self.clock, [StormyRail(world, life, world.rails[self.name])]),
        )  # fmt: skip
        await self._recover()
        if not acts:
            return
        outbox.start()
        life.spawn(self._keep_recovering())
        role = world.make(self)
        self.began(role)
        await role.start()
        self.role = role

    async def _recover(self) -> None:
        try:
            await self.post.wallet.recover()
            await self.post.lightning.recover()
        except Exception as error:  # noqa: BLE001 - it is tried again, and the run fails for it
            assert self.life is not None
            self.life.complain(error)

    async def _keep_recovering(self) -> None:
        while True:
            await asyncio.sleep(RECOVER_SECONDS)
            await self._recover()

    async def end(self) -> None:
        """Kill it."""
        if self.life is not None:
            await self.life.end()
            self.errors += self.life.errors
            self.life = None

    async def balance(self) -> int:
        """What its wallet holds."""
        return sum((await self.post.wallet.balance()).values())


class World:
    """One run's parts."""

    def __init__(self, folder: Path, outside: Outside, weather: Weather) -> None:
        self.folder = folder
        self.outside = outside
        self.weather = weather
        self.trace = Trace()
        self.requests = 0
        self.struck: Callable[[Outside], None] = lambda _outside: None
        self.mint, self.network, self.rails, self.office = (
            outside.mint, outside.network, outside.rails, outside.office,
        )  # fmt: skip
        self.office.lossy, self.office.late_seconds = weather.lossy_relays, weather.late_relays_seconds
        self.parties = {name: Party(self, name) for name in NAMES}
        self.office.cut_off = {self[name].key: span for name, span in weather.cut_off.items()}
        self.work_seconds_max = WORK_SECONDS_MAX
        self.credit_sat = 0  # what is done before it is paid by invoice
        self.fee_sat = 0  # what a dispute costs
        self.work: Callable[[Job], Any] = lambda job: job.text.upper()

    def strikes(self) -> None:
        """A party's time has come."""
        self.outside.time = asyncio.get_running_loop().time()
        self.struck(self.outside)

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    async def __aenter__(self) -> "World":
        adopt_tasks(asyncio.get_running_loop())
        for name in NAMES:
            if not (self.folder / name).exists():
                shutil.copyfile(ground().folder / name, self.folder / name)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for party in self.parties.values():
            await party.end()

    def calm_down(self) -> None:
        """From now on nothing is lost or late."""
        self.weather = Weather(skews=self.weather.skews)
        self.office.lossy = self.office.late_seconds = 0

    def make(self, party: Party) -> Any:
        """The software of a party."""
        match party.name:
            case "customer":
                return Customer(party.signer, party.post)
            case "arbiter":
                return Arbiter(party.post, party.signer, ArbiterLimits(fee_sat=self.fee_sat))
        agent = Agent("Upper")
        agent.serves(kind=KIND, price_sat=PRICE_SAT)(self._work)
        limits = ProviderLimits(
            arbiters=(self["arbiter"].key,), arrange_seconds=DELIVER_SECONDS // 2,
            review_seconds=REVIEW_SECONDS, dispute_seconds=DISPUTE_SECONDS,
            job_seconds_max=self.work_seconds_max, locktime_seconds=LOCK_SECONDS,
            reveal_msat_max=1000 * EARLIER_SAT, credit_msat_max=1000 * self.credit_sat,
        )  # fmt: skip
        return Provider(agent, party.signer, party.post, limits)

    async def _work(self, job: Job) -> str:
        result = self.work(job)
        return str(await result if asyncio.iscoroutine(result) else result)


__all__ = ["Dead", "JobFailed", "Party", "Weather", "World", "replace"]
