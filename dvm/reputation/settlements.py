"""What the evidence in a review amounts to: by what it says itself, and by what its mint says of it.

A mint is asked only if the reader trusts it: a review is written by a stranger, and would else choose whom we call and
whom we believe. Asking needs no wallet and writes nothing. What each class of evidence proves: docs/reputation.md.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final, Self

from identity.audit import Settlement
from identity.receipts import Preimage, Review, SpentCoin, SpentLock
from wallet import HttpTransport, MintTransport, WalletError, WrongLock, parse_lock, signers
from wallet.crypto import proof_y, verify_dleq_proof
from wallet.errors import InvalidProof, InvalidRequest, MintError, MintUnavailable, UnknownMint
from wallet.invoice import parse_invoice
from wallet.keysets import Keyset, check_keyset, resolve_short_id
from wallet.mint import CoinState, KeysetAnswer, MintClient, ProofStateAnswer, normalise_mint_url
from wallet.proofs import SAT, Dleq, Lock, Proof

NO_EVIDENCE: Final = Settlement(frozenset(), 0, doubt="the review shows no payment")
NOT_OURS: Final = "not one of your mints"
LOOKED_AT_ONCE: Final = 8  # reviews, each in a thread while it is computed


class MintWitness:
    """Asks the mints in `urls`, and no others, about spent coins. Use as an async context manager, for one reading.

    `unasked` says of each mint that told nothing why, by its URL as reviews have it: strangers wrote it.
    """

    def __init__(
        self, urls: Iterable[str], transport: Callable[[str], MintTransport] = HttpTransport
    ) -> None:
        """Raises `UnknownMint` for a malformed URL."""
        self.unasked: dict[str, str] = {}
        self._clients = {url: MintClient(url, transport(url)) for url in map(normalise_mint_url, urls)}
        self._listed: dict[str, list[KeysetAnswer]] = {}
        self._keysets: dict[tuple[str, str], Keyset] = {}
        self._turns = {url: asyncio.Lock() for url in self._clients}
        self._room = asyncio.Semaphore(LOOKED_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for client in self._clients.values():
            await client.close()

    async def look(self, review: Review) -> Settlement:
        """What a review's evidence amounts to, by itself and by its mint. Total: what is wrong is the `doubt`.

        `asked` stays empty where the mint was not asked or did not answer: see `unasked`.
        """
        async with self._room:
            return await self._look(review)

    async def _look(self, review: Review) -> Settlement:
        found = await asyncio.to_thread(look, review)
        if found.doubt or not isinstance(review.evidence, SpentLock):
            return found
        try:
            mint = normalise_mint_url(review.evidence.mint)
        except UnknownMint as error:
            return replace(found, doubt=str(error))
        client = self._clients.get(mint)
        if client is None:
            self.unasked[review.evidence.mint] = NOT_OURS
            return found
        try:
            await self._check_signed(client, review.evidence.coins)
            states = await client.check_state(sorted(found.marks))
            await asyncio.to_thread(_check_taken, review.evidence.coins, states)
        except (MintUnavailable, MintError) as error:
            self.unasked[review.evidence.mint] = str(error)
            return found
        except WalletError as error:
            return replace(found, doubt=str(error), asked=(mint,))
        checks = f"{mint}: signed these coins, and they are spent with a signature of that key"
        return replace(found, asked=(checks,))

    async def _check_signed(self, client: MintClient, coins: Sequence[SpentCoin]) -> None:
        """Raises `InvalidProof`, `InvalidKeyset` unless the mint made these coins, and `MintUnavailable`."""
        keysets = [await self._keyset(client, coin.keyset_id) for coin in coins]
        await asyncio.to_thread(_check_made, list(zip(coins, keysets, strict=True)))

    async def _keyset(self, client: MintClient, keyset_id: str) -> Keyset:
        """A keyset of the mint, whole or short id, whose keys hash to its id. Asked for once."""
        async with self._turns[client.url]:
            if client.url not in self._listed:
                self._listed[client.url] = await client.keysets()
            listed = {entry.id: entry for entry in self._listed[client.url]}
            entry = listed[resolve_short_id(keyset_id, listed)]
            if (client.url, entry.id) not in self._keysets:
                keyset = Keyset(
                    entry.id, entry.unit, entry.active, entry.input_fee_ppk or 0, entry.final_expiry,
                    await client.keys(entry.id),
                )  # fmt: skip
                await asyncio.to_thread(check_keyset, keyset)
                self._keysets[client.url, entry.id] = keyset
            return self._keysets[client.url, entry.id]


def look(review: Review) -> Settlement:
    """What a review's evidence amounts to by itself, nobody being asked. Total: what is wrong is the `doubt`."""
    match review.evidence:
        case SpentLock(_, coins):
            return _lock(coins)
        case Preimage(bolt11, preimage):
            return _preimage(bolt11, preimage)
        case None:
            return NO_EVIDENCE


def _lock(coins: tuple[SpentCoin, ...]) -> Settlement:
    amount_msat = 1000 * sum(coin.amount for coin in coins)
    try:
        marks = frozenset(proof_y(coin.secret) for coin in coins)
        locks = [_lock_of(coin) for coin in coins]
    except WalletError as error:
        return Settlement(frozenset(), amount_msat, doubt=str(error))
    found = Settlement(marks, amount_msat, lock=locks[0].pubkey)
    if len(marks) < len(coins):
        return replace(found, doubt="a coin is in it twice")
    if any(lock.pubkey != found.lock for lock in locks):
        return replace(found, doubt="the coins are locked to several keys, and a job has one")
    for coin in coins:
        if coin.witness and not _is_signed(coin.secret, coin.witness, found.lock):
            return replace(
                found, doubt="a coin was not spent with a signature of the key that it is locked to"
            )
    return replace(
        found,
        offline=(
            "the coins are locked to one key",
            *(("that key signed for them",) if all(coin.witness for coin in coins) else ()),
        ),
    )


def _lock_of(coin: SpentCoin) -> Lock:
    lock = parse_lock(coin.secret)
    if lock is None:
        raise WrongLock("a coin is under no lock, and names no job")
    return lock


def _is_signed(secret: str, witness: str | None, key: str) -> bool:
    return bool(signers(secret, witness, (key,)))


def _check_made(coins: Iterable[tuple[SpentCoin, Keyset]]) -> None:
    """Raises `InvalidProof` unless each coin is of sats and signed by its keyset."""
    for coin, keyset in coins:
        proof = Proof(coin.amount, keyset.id, coin.secret, coin.C, Dleq(coin.e, coin.s, coin.r))
        if keyset.unit != SAT or not verify_dleq_proof(proof, keyset.key(coin.amount)):
            raise InvalidProof("the mint did not make these coins, or not of sats")


def _check_taken(coins: Iterable[SpentCoin], states: dict[str, ProofStateAnswer]) -> None:
    """Raises `InvalidProof` unless each coin is spent with a signature of the key it is locked to.

    Of a mint that does not show what a coin was spent with, the review's word is taken: a signature by that key is no
    less one for it. Without either it may be the customer who took the coins back.
    """
    for coin in coins:
        state = states[proof_y(coin.secret)]
        if state.state is not CoinState.SPENT:
            raise InvalidProof("the mint says that these coins are not spent")
        if not _is_signed(coin.secret, state.witness or coin.witness, _lock_of(coin).pubkey):
            raise InvalidProof(
                "the coins are spent, and nothing shows that it was by the key they are locked to"
            )


def _preimage(bolt11: str, preimage: str) -> Settlement:
    try:
        invoice = parse_invoice(bolt11)
    except InvalidRequest as error:
        return Settlement(frozenset(), 0, doubt=str(error))
    found = Settlement(frozenset((invoice.payment_hash,)), invoice.amount_msat, hash=invoice.payment_hash)
    if sha256(bytes.fromhex(preimage)).hexdigest() != invoice.payment_hash:
        return replace(found, doubt="the preimage is not that of the invoice")
    return replace(found, offline=("the preimage is that of the invoice",))
