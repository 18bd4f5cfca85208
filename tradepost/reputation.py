"""Reputation of any agent, from Python: read from relays, its payments asked of mints that you trust, judged here.

    async with Reputation.open() as reputation:
        print((await reputation.score("npub1…")).value)

Nothing is believed that is not signed, proved or known from before; docs/reputation.md says what each word means.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dvm import NoAgentFound
from dvm.discovery.announce import find_called
from dvm.discovery.names import find_key
from dvm.orders.asking import named_key, relays_in
from dvm.reputation.reader import Material, Reader, RelayView
from dvm.reputation.settlements import MintWitness
from identity import Event, encode_npub
from identity.audit import Audit, Receipt
from identity.audit import Verdict as Standing
from identity.nip05 import parse_name
from identity.published import Finding
from identity.receipt_file import ReceiptFile, Verdict, check_file, make_file, parse_file
from identity.roots import Root
from identity.rotation import Chain
from identity.scores import Score, read_records, score
from relay_bridge import Fetcher, RelayPool
from store import Clock, Database, SystemClock
from tradepost.errors import ConfigError, TradepostError
from tradepost.logs import ensure_logs
from tradepost.post import reach, read_database
from tradepost.settings import Settings
from tradepost.verifying import Asked, Step, all_steps, offline_steps

SHOWN_MAX: Final = 5  # of several that somebody may have meant
#: Of several reviews of a job, and the agent's word on it: what counts before what.
_COUNTING: Final = (Standing.SETTLED, Standing.UNASKED, Standing.SILENT, Standing.NO_PAYMENT)


@dataclass(frozen=True)
class RootReport:
    """The newest root of a log, and what the relays show of it; `findings` is what is wrong with the published roots.

    `event` and `root` are None if there is none.
    """

    chain: Chain
    event: Event | None
    root: Root | None
    relays: tuple[RelayView, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Reading:
    """All that was read of an agent, and what it amounts to.

    `unasked` says of each mint that was not asked, or gave no answer, why.
    """

    material: Material
    audit: Audit
    unasked: Mapping[str, str]

    def receipt(self, job: str) -> Receipt:
        """That of a job, named by its request's id or the beginning of one; of several reviews, the one that counts.

        Raises `TradepostError`.
        """
        found = [one for one in self.audit.receipts if one.request.startswith(job)]
        requests = dict.fromkeys(one.request for one in found)
        if not found:
            raise TradepostError(f"neither the log nor a review tells of a job {job}")
        if len(requests) > 1:
            several = ", ".join(request[:16] for request in list(requests)[:SHOWN_MAX])
            raise TradepostError(f"{job} is the beginning of several jobs ({several} …): say more of it")
        return min(found, key=lambda one: [*_COUNTING, one.verdict].index(one.verdict))

    def prove(self, job: str | None = None) -> ReceiptFile:
        """A file about one job, or about the root alone. Raises `TradepostError`, `InvalidReceipt`."""
        state = self.material.state
        if state.root is None:
            raise TradepostError(
                "the relays have no root of this agent with all its leaves: nothing can be proved"
            )
        if job is None:
            return make_file(state.root, state.texts)
        receipt = self.receipt(job)
        return make_file(state.root, state.texts, receipt.request, receipt.review_event)

    def steps(self, offline: Sequence[Step], receipt: Receipt | None) -> list[Step]:
        """The checks of a file that is good, and what relays and mints say of its log, and of its one receipt."""
        return all_steps(offline, self.material, self.audit, receipt, self.unasked)


class Reputation:
    """What relays and mints know of agents. Made by `open`; an agent is named by its npub, nprofile or key in hex, by a
    NIP-05 name (bob@example.com), or as it calls itself.
    """

    def __init__(
        self, pool: RelayPool, clock: Clock, fetcher: Fetcher, *, mints: Sequence[str], db: Database | None
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._fetcher = fetcher
        self._mints = mints
        self._db = db

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path | None = None, *, mints: Sequence[str] = (), ask_mints: bool = True
    ) -> "AsyncIterator[Reputation]":
        """By the configuration of `folder` (default: here, else the user's own), beside whatever runs there.

        `mints` are believed besides those of the configuration; with `ask_mints=False` none is asked. Raises
        `ConfigError`, `TradepostError` if no relay can be reached.
        """
        ensure_logs()
        settings, clock = Settings.load(folder), SystemClock()
        if not settings.relays:
            raise ConfigError("no relays: name some in tradepost.yaml or in TRADEPOST_RELAYS")
        async with (
            RelayPool(settings.relays, clock=clock, allow_private=settings.allow_private_relays) as pool,
            _memory(settings) as db,
        ):
            if unreachable := await reach(pool):
                raise TradepostError(f"{unreachable}. Name others in tradepost.yaml or TRADEPOST_RELAYS")
            fetcher = Fetcher(allow_private=settings.allow_private_urls)
            trusted = (*settings.mints, *mints) if ask_mints else ()
            yield cls(pool, clock, fetcher, mints=trusted, db=db)

    async def root(self, agent: str) -> RootReport:
        """The newest root of an agent's log. Mints are not asked. Raises `NoAgentFound`."""
        key, relays = await self.find(agent)
        return self.root_of(await Reader(self._pool, self._clock, db=self._db).read(key, relays))

    def root_of(self, material: Material) -> RootReport:
        """The newest root by what was read."""
        event, root = material.state.roots[-1] if material.state.roots else (None, None)
        findings = Reader(self._pool, self._clock).check_roots(material)
        return RootReport(material.state.chain, event, root, material.relays, findings)

    async def read(self, agent: str, *, held: Sequence[Event] = ()) -> Reading:
        """Everything at once. `held` are events that count besides those of relays; signatures are checked here.

        Raises `NoAgentFound`, `InvalidEvent`.
        """
        for event in held:
            event.verify()
        key, relays = await self.find(agent)
        async with MintWitness(self._mints) as witness:
            reader = Reader(self._pool, self._clock, witness=witness, db=self._db)
            material = await reader.read(key, relays, held=held)
            return Reading(material, await reader.judge(material), witness.unasked)

    async def audit(self, agent: str) -> Audit:
        """Every job with what it amounts to, and whatever is not as it should be. Raises `NoAgentFound`."""
        return (await self.read(agent)).audit

    async def score(self, agent: str) -> Score:
        """The score as of now, with the numbers that it came from. Raises `NoAgentFound`."""
        return self.score_of(await self.read(agent))

    def score_of(self, reading: Reading) -> Score:
        """The score by what was read."""
        now = self._clock.now()
        return score(read_records(reading.audit, now), now)

    async def prove(self, agent: str, job: str) -> bytes:
        """A file by which anybody can check the receipt of that job, offline: for `verify_receipt`.

        Raises `NoAgentFound`, `TradepostError`, `InvalidReceipt` if the log has no such job.
        """
        return (await self.read(agent)).prove(job).to_json()

    async def verify(self, agent: str, job: str | None = None) -> list[Step]:
        """Check the newest root of an agent, or the receipt of a job, as relays show it.

        Raises `NoAgentFound`, `TradepostError` if there is nothing to check, `InvalidReceipt` for a job not in the log.
        """
        reading = await self.read(agent)
        file = reading.prove(job)
        steps = offline_steps(check_file(file, self._clock.now(), reading.audit.chain.log))
        return reading.steps(steps, reading.receipt(job) if job else None)

    async def verify_file(self, file: bytes, agent: str | None = None) -> list[Step]:
        """Check a receipt's file by itself, and if that is good ask relays and mints.

        Raises `InvalidReceipt`, and as `find` if you say which `agent` it is to be of.
        """
        parsed = parse_file(file)
        checked = check_file(parsed, self._clock.now(), agent and (await self.find(agent))[0])
        steps = offline_steps(checked)
        if not checked.is_good or checked.root is None:
            return steps
        reading = await self.read(checked.root.log, held=[*filter(None, (parsed.root, parsed.review))])
        is_there = checked.job and any(one.request == checked.job.request for one in reading.audit.receipts)
        receipt = reading.receipt(checked.job.request) if checked.job and is_there else None
        current = encode_npub(reading.audit.chain.current)
        doubt = (
            f"whether {current} is the agent that you mean: say whose it is to be (--of; over HTTP, agent)"
        )
        unsaid = [] if agent else [Step(Verdict.NOT_CHECKED, Asked.NOBODY, doubt)]
        return [*reading.steps(steps, receipt), *unsaid]

    async def find(self, agent: str) -> tuple[str, tuple[str, ...]]:
        """The key (hex) that is meant, and relays that are named with it. Raises `NoAgentFound`, `BadRequest`,
        `FetchFailed`, `InvalidName`.
        """
        if key := named_key(agent):
            return key, relays_in(agent)
        if "@" in agent:
            name = parse_name(agent)
            if key := await find_key(self._fetcher, name):
                return key, ()
            raise NoAgentFound(f"{name.domain} knows no {name.local}")
        keys = {listing.public_key for listing in await find_called(self._pool, self._clock, agent)}
        if len(keys) == 1:
            return keys.pop(), ()
        seen = f"{len(keys)} agents are called {agent!r}" if keys else f"nobody is called {agent!r}"
        raise NoAgentFound(f"{seen} on {', '.join(self._pool.urls)}: name it by its npub")


def verify_receipt(file: bytes, agent: str | None = None) -> list[Step]:
    """Check a receipt's file: asks nobody, needs no relay and no mint. `agent` is its npub, if you know whom you mean.

    Raises `InvalidReceipt` if it is no such file, `BadRequest` for a malformed npub, `TradepostError` for a name.
    """
    key = named_key(agent) if agent else None
    if agent and key is None:
        raise TradepostError(f"where nobody is asked, {agent!r} leads to no key: name the agent by its npub")
    return offline_steps(check_file(parse_file(file), SystemClock().now(), key))


@asynccontextmanager
async def _memory(settings: Settings) -> AsyncIterator[Database | None]:
    """The post's database; None where there is none, or one of an earlier release, which is left alone."""
    async with AsyncExitStack() as stack:
        db = None
        if settings.database.exists():
            with suppress(ConfigError):  # what is remembered in it is missed, and nothing else
                db = await stack.enter_async_context(read_database(settings))
        yield db
