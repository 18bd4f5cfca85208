"""What a mint really enforces: before its locks are trusted, coins of our own are locked there and taken wrongly.

A run locks one sat (net of fees) in each way we rely on and asks for it with too little: the mint must refuse. Then
it asks with all it takes: the mint must give. Every step is an operation of the engine under a name that follows from
the run, and every key is derived: a run that was cut short is taken up where it stopped, does nothing twice and loses
nothing. What it costs is the mint's input fees of two swaps for each way.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from identity import SecretKey
from wallet import queries, queries_probes
from wallet.errors import Action, WalletError
from wallet.keyring import HTLC_NUT
from wallet.mint import MintInfo
from wallet.operations import Enforced, Kind, Outcome, Plan, State
from wallet.operations_desk import Desk
from wallet.operations_plan import Planner, Request, send_amounts
from wallet.proofs import Lock
from wallet.queries_probes import Run
from wallet.witness import make_witness

NEEDED_NUTS: Final = (7, 10, 11, 12)
LOCK_SECONDS: Final = 86_400
LATE_SECONDS: Final = (
    3600  # so long before the locktime a refund is certainly not open, whatever the mint's clock
)
VERSION_CHARS_MAX: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Try:
    """One way to ask for a locked coin; what the mint's refusal shows, None for the one that it must accept."""

    name: str
    shows: str | None
    keys: tuple[SecretKey, ...] = ()
    preimage: str | None = None


class Prober:
    """Probes the mints of one wallet; `settle` drives a recorded operation to its end (`Wallet.settle`)."""

    def __init__(self, desk: Desk, planner: Planner, settle: Callable[[str], Awaitable[Outcome]]) -> None:
        self._desk = desk
        self._planner = planner
        self._settle = settle

    async def known(self, mint: str) -> Enforced:
        """See `Wallet.enforces`."""
        info = await self._desk.keyring.info(mint)
        run = await queries_probes.find(self._desk.db, mint, _version(info))
        if run is None or run.found.checked_at is None or not all(map(info.supports, NEEDED_NUTS)):
            return Enforced(_version(info))
        return replace(run.found, htlc=run.found.htlc and info.supports(HTLC_NUT))

    async def probe(self, mint: str) -> Enforced:
        """See `Wallet.probe`. One at a time for each mint."""
        await self._desk.keyring.keysets(mint)  # refuses a mint that lacks a NUT that is needed always
        info = await self._desk.keyring.info(mint)
        for left in await queries_probes.under_way(self._desk.db, mint):
            if left.found.version != _version(info) or left.locktime - self._desk.clock.now() < LATE_SECONDS:
                await self._give_up(left)
        run = await queries_probes.find(self._desk.db, mint, _version(info))
        if run is None:
            locktime = self._desk.clock.now() + LOCK_SECONDS
            run = Run(mint, secrets.token_hex(8), locktime, Enforced(_version(info)))
            async with self._desk.db.transaction() as tx:
                await queries_probes.insert(tx, run)
        if run.found.checked_at is None:
            found = await self._finish(run, with_htlc=info.supports(HTLC_NUT))
            async with self._desk.db.transaction() as tx:
                await queries_probes.end(tx, run.id, found)
            log.info("mint_probed", mint=mint, version=found.version, p2pk=found.p2pk, multisig=found.multisig,
                     refund=found.refund, htlc=found.htlc)  # fmt: skip
        return await self.known(mint)

    async def _finish(self, run: Run, *, with_htlc: bool) -> Enforced:
        shown: dict[str, bool] = {}
        for name, lock, tries in self._ways(run):
            if lock.hash is None or with_htlc:
                shown |= await self._judge(run, name, lock, tries)
        return replace(
            run.found,
            p2pk=shown["p2pk"],
            multisig=shown["multisig"],
            refund=shown["refund"],
            htlc=shown.get("htlc", False),
            checked_at=self._desk.clock.now(),
        )

    async def _judge(self, run: Run, name: str, lock: Lock, tries: Sequence[_Try]) -> dict[str, bool]:
        """Lock one sat in this way and ask for it in each of `tries`, the last of which is the right one."""
        sent = await self._done(f"probe:{run.id}:{name}", lambda op_id: self._lock(run, op_id, lock))
        if sent.state is not State.DONE:
            await self._give_up(run)
            raise WalletError(
                f"{run.mint} made no locked coin to probe it with: {sent.error}; try again later",
                action=Action.RETRY_AFTER,
            )
        shows = {attempt.shows for attempt in tries if attempt.shows}
        for attempt in tries:
            if await self._accepts(run, sent.op_id, attempt):  # either way the coin is ours again
                if attempt.shows is not None:
                    log.error("mint_enforces_no_lock", mint=run.mint, lock=name, attempt=attempt.name)
                return dict.fromkeys(shows, attempt.shows is None)
        return dict.fromkeys(shows, False)

    async def _accepts(self, run: Run, sent_op_id: str, attempt: _Try) -> bool:
        """Whether the mint gives the coin for this; if so it is ours again. Raises `MintUnavailable`."""
        outcome = await self._done(
            f"{sent_op_id}:{attempt.name}", lambda op_id: self._take(run, op_id, sent_op_id, attempt)
        )
        return outcome.state is State.DONE

    async def _give_up(self, run: Run) -> None:
        """Take back what a run left locked, and forget the run: its mint or its time is not what it was."""
        for name, _, tries in self._ways(run):
            op_id = f"probe:{run.id}:{name}"
            if await queries.sent_proofs(self._desk.db, op_id):
                await self._accepts(run, op_id, tries[-1])
        async with self._desk.db.transaction() as tx:
            await queries_probes.drop(tx, run.id)

    async def _done(self, op_id: str, plan: Callable[[str], Awaitable[Plan]]) -> Outcome:
        """The end of an operation, which is planned and recorded unless an earlier life did."""
        op = await queries.operation(self._desk.db, op_id)
        if op is None or op.state is State.PLANNED:
            await plan(op_id)
        return await self._settle(op_id)

    async def _lock(self, run: Run, op_id: str, lock: Lock) -> Plan:
        keysets = await self._desk.keyring.keysets(run.mint)
        coins = send_amounts(1, None, await self._desk.keyring.active(run.mint, lock), include_fees=True)
        request = Request(
            op_id, Kind.SEND, run.mint, "probe", lock=lock, send_sat=sum(coins), amounts=coins, record=True
        )
        return await self._planner.plan_own(request, keysets)

    async def _take(self, run: Run, op_id: str, sent_op_id: str, attempt: _Try) -> Plan:
        keysets = await self._desk.keyring.keysets(run.mint)
        coins = {
            y: proof.with_witness(make_witness(proof.secret, attempt.keys, attempt.preimage))
            for y, proof in (await queries.sent_proofs(self._desk.db, sent_op_id)).items()
        }
        kind = Kind.PROBE if attempt.shows else Kind.REDEEM
        return await self._planner.plan_foreign(
            Request(op_id, kind, run.mint, "probe", record=True), coins, keysets
        )

    def _ways(self, run: Run) -> Iterator[tuple[str, Lock, tuple[_Try, ...]]]:
        """Each lock we rely on, with what must not open it and, last, what must."""
        names = ("provider", "customer", "arbiter", "preimage")
        p, c, a, drawn = (self._desk.seed.job_key("probe", run.id, name) for name in names)
        provider, customer, arbiter = (key.compressed_public_key for key in (p, c, a))
        preimage, wrong = drawn.hex(), "00" * 32
        yield (
            "p2pk",
            Lock(provider),
            (_Try("unsigned", "p2pk"), _Try("stranger", "p2pk", (a,)), _Try("right", None, (p,))),
        )
        timed = Lock(provider, run.locktime, (customer,))
        yield (
            "escrow",
            replace(timed, pubkeys=(customer, arbiter), n_sigs=2),
            (
                _Try("one", "multisig", (p,)),
                _Try("early", "refund", (c,)),
                _Try("right", None, (p, a)),
            ),
        )
        yield (
            "reveal",
            replace(timed, hash=hashlib.sha256(drawn.to_bytes()).hexdigest()),
            (
                _Try("sealed", "htlc", (p,)),
                _Try("wrong", "htlc", (p,), wrong),
                _Try("unsigned", "htlc", (), preimage),
                _Try("early", "htlc", (c,)),
                _Try("right", None, (p,), preimage),
            ),
        )


def _version(info: MintInfo) -> str:
    return (info.version or "")[:VERSION_CHARS_MAX]
