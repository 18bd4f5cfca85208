"""Probing a mint for the locks it enforces: honest mints, mints that look away, and deaths at every request."""

from dataclasses import replace

import pytest

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.errors import InsufficientFunds, MintError, MintUnavailable, UnknownMint, WalletError
from wallet.locks import parse_lock
from wallet.operations import Enforced
from wallet.proofs import Lock, Proof
from wallet.seed import Seed
from wallet.wallet import Wallet
from wallet.witness import can_spend, preimage_of, signers

START_SAT = 64
ALL = {"p2pk": True, "multisig": True, "refund": True, "htlc": True}


class CarelessMint(MemoryMint):
    """Judges locks by another rule than the agreed one."""

    version = "Careless/1"

    def rule(self, lock: Lock, keys: frozenset[str], preimage: str | None) -> bool:
        return can_spend(lock, keys, self.clock.now(), preimage)

    def _check_lock(self, proof: Proof) -> None:
        lock = parse_lock(proof.secret)
        if lock is not None:
            keys = signers(proof.secret, proof.witness, (lock.pubkey, *lock.pubkeys, *lock.refund))
            if not self.rule(lock, keys, preimage_of(lock.hash or "", proof.witness)):
                raise MintError(mint_code=10001, detail="the lock does not open")

    def _answer(self, method, path, body):
        answer = super()._answer(method, path, body)
        return answer | {"version": self.version} if path == "/v1/info" else answer


class AnybodyMint(CarelessMint):
    """Takes every locked coin for a plain one."""

    def rule(self, lock, keys, preimage):
        return True


class OneSignatureMint(CarelessMint):
    def rule(self, lock, keys, preimage):
        return super().rule(replace(lock, n_sigs=1), keys, preimage)


class EarlyMint(CarelessMint):
    def rule(self, lock, keys, preimage):
        return can_spend(lock, keys, (lock.locktime or 0) + 1, preimage)


class NoHashMint(CarelessMint):
    """Reads an HTLC as if it were P2PK."""

    def rule(self, lock, keys, preimage):
        return super().rule(replace(lock, hash=None), keys, preimage)


class BearerPreimageMint(CarelessMint):
    """Gives to whoever has the preimage."""

    def rule(self, lock, keys, preimage):
        return super().rule(lock, keys, preimage) or (lock.hash is not None and preimage is not None)


class FrozenMint(CarelessMint):
    """Gives locked coins to nobody."""

    def rule(self, lock, keys, preimage):
        return False


async def funded(make_wallet, mint: MemoryMint) -> Wallet:
    wallet = await make_wallet("prober")
    quote = await wallet.mint_quote(mint.url, START_SAT)
    mint.pay(quote.bolt11)
    await wallet.claim(quote.id)
    return wallet


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


@pytest.fixture
def mint(request: pytest.FixtureRequest, clock: ManualClock) -> MemoryMint:
    kind = getattr(request, "param", CarelessMint)
    return kind(clock=clock)


async def test_an_honest_mint_is_probed_once_for_each_version(make_wallet, mint: MemoryMint, clock) -> None:
    wallet = await funded(make_wallet, mint)
    assert await wallet.enforces(mint.url) == Enforced("Careless/1")
    found = await wallet.probe(mint.url)
    assert found == Enforced("Careless/1", **ALL, checked_at=clock.now())
    assert mint.fees_sat == 6
    assert await sat(wallet) == START_SAT - 6
    asked = mint.asked["/v1/swap"]
    assert await wallet.probe(mint.url) == await wallet.enforces(mint.url) == found
    assert mint.asked["/v1/swap"] == asked
    assert (await wallet.audit(ask_mints=True)).ok

    mint.version = "Careless/2"
    await clock.advance(3601)  # so long what a mint says of itself is believed
    assert await wallet.enforces(mint.url) == Enforced("Careless/2")
    assert await wallet.probe(mint.url) == Enforced("Careless/2", **ALL, checked_at=clock.now())
    mint.version = "Careless/1"
    await clock.advance(3601)
    assert await wallet.enforces(mint.url) == found


@pytest.mark.parametrize(
    ("mint", "holds"),
    [
        (AnybodyMint, set()),
        (OneSignatureMint, {"p2pk", "htlc"}),
        (EarlyMint, {"p2pk"}),
        (NoHashMint, {"p2pk", "multisig", "refund"}),
        (BearerPreimageMint, {"p2pk", "multisig", "refund"}),
        (FrozenMint, set()),
    ],
    indirect=["mint"],
)
async def test_a_mint_that_looks_away_is_found_out(make_wallet, mint: MemoryMint, holds: set[str]) -> None:
    wallet = await funded(make_wallet, mint)
    found = await wallet.probe(mint.url)
    assert {name for name in ALL if getattr(found, name)} == holds
    assert (await wallet.audit(ask_mints=True)).ok
    if not isinstance(mint, FrozenMint):
        assert await sat(wallet) + mint.fees_sat == START_SAT


async def test_a_mint_that_does_not_announce_hash_locks_is_not_given_any(make_wallet, mint, clock) -> None:
    del mint.nuts["14"]
    wallet = await funded(make_wallet, mint)
    found = await wallet.probe(mint.url)
    assert found == Enforced("Careless/1", **ALL | {"htlc": False}, checked_at=clock.now())
    assert mint.fees_sat == 4
    mint.nuts["14"] = {"supported": True}
    await clock.advance(3601)
    assert not (await wallet.enforces(mint.url)).htlc  # announced now, and not tried


async def test_a_mint_that_makes_no_coins_is_probed_anew_later(make_wallet, mint) -> None:
    wallet = await funded(make_wallet, mint)
    for _ in range(3):
        mint.refuse("/v1/swap")
    with pytest.raises(WalletError, match="made no locked coin"):
        await wallet.probe(mint.url)
    assert await sat(wallet) == START_SAT
    assert (await wallet.probe(mint.url)).htlc


@pytest.mark.parametrize("nut", ["7", "10", "11", "12", "14"])
async def test_a_mint_that_stops_announcing_is_not_trusted(make_wallet, mint, clock, nut: str) -> None:
    wallet = await funded(make_wallet, mint)
    assert (await wallet.probe(mint.url)).p2pk
    del mint.nuts[nut]
    await clock.advance(3601)
    found = await wallet.enforces(mint.url)
    assert found.htlc is False
    assert found.p2pk is (nut == "14")


async def test_a_mint_that_lacks_a_nut_is_not_probed(make_wallet, mint) -> None:
    del mint.nuts["11"]
    wallet = await make_wallet("prober")
    with pytest.raises(UnknownMint):
        await wallet.probe(mint.url)
    with pytest.raises(UnknownMint):
        await wallet.probe("https://other.test")


async def test_without_sats_nothing_is_found_and_a_later_probe_goes_on(make_wallet, mint) -> None:
    wallet = await make_wallet("prober")
    with pytest.raises(InsufficientFunds):
        await wallet.probe(mint.url)
    assert not (await wallet.enforces(mint.url)).p2pk
    quote = await wallet.mint_quote(mint.url, START_SAT)
    mint.pay(quote.bolt11)
    await wallet.claim(quote.id)
    assert (await wallet.probe(mint.url)).htlc


async def test_a_mint_that_does_not_answer_is_asked_again(make_wallet, mint) -> None:
    wallet = await funded(make_wallet, mint)
    for path in ("/v1/swap", "/v1/checkstate"):
        mint.lose_answer(path)
    with pytest.raises(MintUnavailable):
        await wallet.probe(mint.url)
    assert not (await wallet.enforces(mint.url)).p2pk
    assert (await wallet.probe(mint.url)).htlc
    assert await sat(wallet) == START_SAT - 6


@pytest.mark.parametrize("later", [86_400, 3601])
async def test_a_run_that_was_left_is_taken_back(make_wallet, mint, clock, later: int) -> None:
    """Too near the locktime, or of another version, a run can have no result; its coins come back and a new one begins."""
    wallet = await funded(make_wallet, mint)
    swaps = []
    genuine = mint._swap

    def stop_at_the_sixth(inputs, outputs):
        swaps.append(inputs)
        if len(swaps) == 6:
            mint.down = True
            raise MintUnavailable("gone")
        return genuine(inputs, outputs)

    mint._swap = stop_at_the_sixth
    with pytest.raises(MintUnavailable):
        await wallet.probe(mint.url)
    mint._swap, mint.down = genuine, False
    assert await sat(wallet) == START_SAT - 5  # 3 of fees, 2 locked
    mint.version = "Careless/2"
    await clock.advance(later)
    assert await wallet.recover() == []
    found = await wallet.probe(mint.url)
    assert found == Enforced("Careless/2", **ALL, checked_at=clock.now())
    assert await sat(wallet) + mint.fees_sat == START_SAT
    assert (await wallet.audit(ask_mints=True)).ok


class Died(BaseException):
    """The process is gone."""


class DeadlyTransport:
    """Dies at the request of a number: before it is sent, or with its answer in hand."""

    def __init__(self, mint: MemoryMint, number: int, *, before: bool) -> None:
        self._mint = mint
        self.left = number
        self._before = before

    async def request(self, method, path, body=None):
        self.left -= 1
        if self.left == 0 and self._before:
            raise Died
        try:
            return await self._mint.request(method, path, body)
        finally:
            if self.left == 0:
                raise Died

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(("before", "number"), [(True, 1), (False, 2)])
async def test_death_at_any_request_loses_nothing(tmp_path, clock, before: bool, number: int) -> None:
    """At every third from `number` on, each on a mint and in a database of its own."""
    seed = Seed.generate()
    while True:
        mint = CarelessMint(clock=clock)
        async with await Database.open(tmp_path / f"{number}.db", load_migrations("wallet")) as db:
            async with Wallet.open(
                db, seed, clock=clock, mints=[mint.url], transport=mint.transport
            ) as wallet:
                quote = await wallet.mint_quote(mint.url, START_SAT)
                mint.pay(quote.bolt11)
                await wallet.claim(quote.id)
            deadly = DeadlyTransport(mint, number, before=before)
            async with Wallet.open(
                db, seed, clock=clock, mints=[mint.url], transport=lambda _url, deadly=deadly: deadly
            ) as wallet:
                try:
                    await wallet.probe(mint.url)
                except Died:
                    pass
                else:
                    break
            async with Wallet.open(
                db, seed, clock=clock, mints=[mint.url], transport=mint.transport
            ) as wallet:
                assert await wallet.recover() == []
                assert (await wallet.probe(mint.url)).htlc, number
                assert await sat(wallet) + mint.fees_sat == START_SAT, number
                assert mint.fees_sat == 6
                assert (await wallet.audit(ask_mints=True)).ok
        number += 3
    assert number > 25
