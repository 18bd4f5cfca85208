"""A customer, a provider and an arbiter with a mint and relays between them: started, killed and started again."""

import asyncio
import copy
import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from dvm import Agent, Customer, Job, JobFailed, Post, Provider, ProviderLimits
from dvm.arbiter import Arbiter, ArbiterLimits
from identity import LocalSigner
from soak.life import Dead, Fate, InlineDatabase, Life, SimDatabase, Trace, adopt_tasks
from soak.office import Mailbox, Office, SimInbox, SimOutbox, SimPool
from soak.virtual import VirtualClock, run_virtually
from tradepost.post import all_migrations
from tradepost.testing.mint import MemoryMint
from wallet import MintError, MintUnavailable, Seed, Wallet, counters
from wallet.operations import Output, Role
from wallet.operations_coins import make_outputs
from wallet.rails import Lightning

FUNDED_SAT: Final = 40
PRICE_SAT: Final = 7
KIND: Final = 5001
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


@dataclass
class Weather:
    """What goes wrong with mint and relays. Shares of requests, seconds."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    lies: float = 0.0  # answers of the mint that say no although it was done, or nonsense
    mint_late_seconds: float = 0.0
    lossy_relays: float = 0.0
    late_relays_seconds: float = 0.0
    mint_down: tuple[float, float] | None = None  # from, to
    skews: dict[str, int] = field(default_factory=dict)


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


@contextmanager
def scans_remembered() -> Iterator[None]:
    """Let the hundred outputs by which a wallet checks its counter be derived once, and not in every run."""
    with patch.object(counters, "make_outputs", _remembered):
        yield


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
    return twin


def _digest(body: dict[str, Any] | None) -> str:
    return hashlib.sha256(repr(body).encode()).hexdigest()[:8]


class StormyTransport:
    """One party's line to the mint, in all weathers."""

    def __init__(self, world: "World", life: Life) -> None:
        self._world = world
        self._life = life

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """See `MintTransport.request`."""
        weather, office, life = self._world.weather, self._world.office, self._life
        await asyncio.sleep(office.draw.random() * weather.mint_late_seconds)
        life.check()
        now = asyncio.get_running_loop().time()
        if (
            path == "/v1/info"
        ):  # one answer lost there, and no escrow is begun at all: that would be a dull run
            return await self._world.mint.request(method, path, body)
        if weather.mint_down and weather.mint_down[0] <= now < weather.mint_down[1]:
            raise MintUnavailable("the mint is down")
        if office.chance(weather.lost_requests):
            raise MintUnavailable("the request was lost")
        try:
            answer = await self._world.mint.request(method, path, body)
        except MintError:
            life.pass_point(f"refused {path[:16]}")
            raise
        self._world.requests += 1
        life.pass_point(f"mint {path[:16]}", _digest(body))
        if office.chance(weather.lost_answers):
            raise MintUnavailable("the answer was lost")
        if method == "POST" and office.chance(weather.lies):
            if office.chance(0.5):
                raise MintError(code=11003, detail="no")
            return {"signatures": "<html>", "states": 7}
        await asyncio.sleep(office.draw.random() * weather.mint_late_seconds)
        return answer

    async def close(self) -> None:
        """Nothing to close."""


class Party:
    """One of the three, through all its lives. What outlives them: its files, its mailbox, its fate."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.fate = Fate()
        self.mailbox = Mailbox()
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
        life.db = await SimDatabase.open_for(life, self.path)
        self.role = None
        await asyncio.wait([life.spawn(self._open(life, acts))])

    async def _open(self, life: Life, acts: bool) -> None:
        world = self.world
        wallet = Wallet.open(
            life.db, self.seed, clock=self.clock, mints=[world.mint.url],
            transport=lambda _url: StormyTransport(world, life),
        )  # fmt: skip
        outbox = SimOutbox(life, world.office, self.mailbox)
        self.post = Post(
            db=life.db, clock=self.clock, pool=SimPool(), outbox=outbox,  # type: ignore[arg-type]  # twins
            inbox=SimInbox(life, world.office, self.mailbox, self.key), fetcher=None,  # type: ignore[arg-type]  # nor URLs
            wallet=wallet, seed=self.seed, lightning=Lightning(life.db, self.clock),
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

    def __init__(self, folder: Path, draw: random.Random, weather: Weather | None = None) -> None:
        self.folder = folder
        self.weather = weather or Weather()
        self.trace = Trace()
        self.requests = 0
        self.mint = copied(ground().mint)
        self.office = Office(
            draw, lossy=self.weather.lossy_relays, late_seconds=self.weather.late_relays_seconds
        )
        self.parties = {name: Party(self, name) for name in NAMES}
        self.work_seconds_max = WORK_SECONDS_MAX
        self.work: Callable[[Job], Any] = lambda job: job.text.upper()

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    async def __aenter__(self) -> "World":
        adopt_tasks(asyncio.get_running_loop())
        for name in NAMES:
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
                return Arbiter(party.post, party.signer, ArbiterLimits())
        agent = Agent("Upper")
        agent.serves(kind=KIND, price_sat=PRICE_SAT)(self._work)
        limits = ProviderLimits(
            arbiters=(self["arbiter"].key,), arrange_seconds=DELIVER_SECONDS // 2,
            review_seconds=REVIEW_SECONDS, dispute_seconds=DISPUTE_SECONDS,
            job_seconds_max=self.work_seconds_max, locktime_seconds=LOCK_SECONDS,
        )  # fmt: skip
        return Provider(agent, party.signer, party.post, limits)

    async def _work(self, job: Job) -> str:
        result = self.work(job)
        return str(await result if asyncio.iscoroutine(result) else result)


__all__ = ["Dead", "JobFailed", "Party", "Weather", "World", "replace"]
