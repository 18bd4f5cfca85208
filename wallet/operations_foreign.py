"""Coins that somebody else brings: checked before anything relies on them (escrow §2), signed before they are taken."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, reduce

from identity import SecretKey
from wallet import queries
from wallet.crypto import proof_y, verify_dleq_proof
from wallet.errors import (
    Action,
    AlreadySpent,
    InvalidKeyset,
    InvalidProof,
    InvalidToken,
    LimitExceeded,
    WalletError,
    WrongLock,
)
from wallet.keyring import Keyring, expires_by, needed_until
from wallet.keysets import Keyset, input_fee, resolve_short_id
from wallet.locks import check_lock, is_plain, parse_lock
from wallet.mint import CoinState
from wallet.operations import AMOUNT_SAT_MAX, Examined, State
from wallet.operations_coins import computed
from wallet.operations_desk import Desk
from wallet.proofs import SAT, Lock, Proof, Token
from wallet.queries import Operation
from wallet.token import PROOFS_MAX
from wallet.witness import add_signature, complete, is_unlocked, signers


async def examine(
    keyring: Keyring, coins: Token | Sequence[Proof], *, mint: str, lock: Lock | None, now: int
) -> Examined:
    """See `Wallet.examine`."""
    mint = keyring.trusted(mint)
    if lock is not None:
        await keyring.check_knows(mint, lock)
    if isinstance(coins, Token):
        _check_same_mint(keyring, coins, mint)
        coins = coins.proofs
    proofs, keysets = await whole_ids(keyring, mint, coins)
    for proof in proofs:
        if lock is not None:
            check_lock(proof.secret, lock)
        elif not is_plain(proof.secret):
            raise WrongLock("the coins carry a lock although none was agreed; send plain coins")
        if expires_by(keysets[proof.id], needed_until(lock, now)):
            raise InvalidToken(
                f"coins of keyset {proof.id} expire before they could be refunded; swap them first"
            )
    ys = await computed(len(proofs), lambda: check_genuine(proofs, keysets, need_dleq=lock is not None))
    await check_unspent(keyring, mint, ys)
    amount = sum(proof.amount for proof in proofs)
    fee = input_fee(proofs, keysets)
    return Examined(amount, fee, amount - fee, ys)


async def acceptable(
    keyring: Keyring, token: Token, keys: Sequence[SecretKey], now: int, *, ask: bool
) -> tuple[str, dict[str, Proof], Mapping[str, Keyset]]:
    """A token's mint, its coins by Y with the witnesses that spend them, and the keysets.

    `ask`: whether the mint must first say that they are unspent. Raises as `Wallet.plan_redeem`.
    """
    mint = keyring.trusted(token.mint)
    _check_same_mint(keyring, token, mint)
    proofs, keysets = await whole_ids(keyring, mint, token.proofs)

    def check_and_sign() -> dict[str, Proof]:
        ys = check_genuine(proofs, keysets, need_dleq=False)
        return {y: unlock(proof, keys, now) for y, proof in zip(ys, proofs, strict=True)}

    coins = await computed(len(proofs), check_and_sign)
    if ask:
        await check_unspent(keyring, mint, list(coins))
    return mint, coins, keysets


async def redeemed_by(keyring: Keyring, token: Token, key: SecretKey) -> int | None:
    """See `Wallet.redeemed_by`."""
    mint = keyring.trusted(token.mint)
    proofs, keysets = await whole_ids(keyring, mint, token.proofs)
    coins = {proof_y(proof.secret): proof for proof in proofs}
    states = await keyring.client(mint).check_state(list(coins))
    ours = all(
        states[y].state is CoinState.SPENT and signers(proof.secret, states[y].witness, [key.public_key])
        for y, proof in coins.items()
    )
    return sum(proof.amount for proof in proofs) - input_fee(proofs, keysets) if ours else None


async def whole_ids(
    keyring: Keyring, mint: str, coins: Sequence[Proof]
) -> tuple[list[Proof], Mapping[str, Keyset]]:
    """The coins with whole keyset ids, and the mint's sat keysets. Raises `InvalidToken`, `InvalidKeyset`."""
    if not coins:
        raise InvalidToken("there are no coins in it")
    if len(coins) > PROOFS_MAX:
        raise LimitExceeded(
            f"at most {PROOFS_MAX} coins at once, these are {len(coins)}; send several tokens"
        )
    if sum(proof.amount for proof in coins) > AMOUNT_SAT_MAX or min(proof.amount for proof in coins) <= 0:
        raise InvalidToken("the amounts are not those of real coins")
    keysets = await keyring.keysets(mint)
    try:
        return [_whole_id(proof, keysets) for proof in coins], keysets
    except InvalidKeyset:
        keysets = await keyring.refresh(mint)  # the coins may be newer than our list
        return [_whole_id(proof, keysets) for proof in coins], keysets


def check_genuine(
    proofs: Sequence[Proof], keysets: Mapping[str, Keyset], *, need_dleq: bool
) -> tuple[str, ...]:
    """The coins' Ys, if none comes twice and every DLEQ proves its coin. Heavy on the processor.

    Raises `InvalidToken`, `InvalidProof`.
    """
    ys = tuple(proof_y(proof.secret) for proof in proofs)
    if len(set(ys)) != len(ys):
        raise InvalidToken("a coin is in it twice")
    for proof in proofs:
        key = keysets[proof.id].key(proof.amount)
        if proof.dleq is None or proof.dleq.r is None:
            if need_dleq:
                raise InvalidProof("a locked coin comes without its DLEQ; send it with e, s and r")
        elif not _is_proven(proof.with_witness(""), key):
            raise InvalidProof("a coin was not made by its mint: its DLEQ is wrong")
    return ys


#: Remembered, for a coin is examined when it comes, and again when it is taken with a witness.
_is_proven = lru_cache(maxsize=1024)(verify_dleq_proof)


def unlock(proof: Proof, keys: Sequence[SecretKey], now: int) -> Proof:
    """The coin with what spends it; a plain coin without any witness.

    `keys` sign where the lock names them; signatures of others and the preimage come with the coin, in its witness.
    Raises `WrongLock` unless all that suffices at `now`.
    """
    lock = parse_lock(proof.secret)
    if lock is None:
        return replace(proof, witness=None)
    proof = complete(proof, lock, keys)
    if not is_unlocked(lock, proof.secret, proof.witness, now):
        raise WrongLock(
            "signatures or the preimage of the coins' lock are missing, or their refund is not open yet",
            action=Action.WAIT,
        )
    return proof


async def check_unspent(keyring: Keyring, mint: str, ys: Sequence[str]) -> None:
    """Raise `AlreadySpent` unless every coin is UNSPENT (NUT-07)."""
    states = (await keyring.client(mint).check_state(ys)).values()
    if any(state.state is CoinState.SPENT for state in states):
        raise AlreadySpent("coins in it were spent before; ask for fresh ones")
    if any(state.state is CoinState.PENDING for state in states):
        raise AlreadySpent("coins in it are being spent just now", action=Action.WAIT)


def _check_same_mint(keyring: Keyring, token: Token, mint: str) -> None:
    if keyring.trusted(token.mint) != mint:
        raise InvalidToken(f"the coins are of {token.mint}, agreed was {mint}")
    if token.unit != SAT:
        raise InvalidToken(f"the coins are in {token.unit[:20]}, not in sat")


def _whole_id(proof: Proof, keysets: Mapping[str, Keyset]) -> Proof:
    return replace(proof, id=resolve_short_id(proof.id, keysets))


async def unclaimed(
    desk: Desk, sent_op_id: str, keys: Sequence[SecretKey], signatures: Mapping[str, Sequence[str]]
) -> tuple[Operation, dict[str, Proof]]:
    """An operation that made a token, and those of its coins that nobody claimed, by Y, with what spends them.

    See `Wallet.plan_reclaim`. What was claimed is written down.
    """
    sent = await queries.operation(desk.db, sent_op_id)
    if sent is None or sent.state is not State.DONE:
        raise WalletError(f"operation {sent_op_id} made no token that could be taken back")
    coins = await queries.sent_proofs(desk.db, sent_op_id)
    states = await desk.keyring.client(sent.mint).check_state(list(coins))
    claimed = {y: s.witness for y, s in states.items() if s.state is CoinState.SPENT}
    if claimed:
        async with desk.db.transaction() as tx:
            await queries.mark_spent(tx, sent.mint, claimed.items())
    now = desk.clock.now()
    left = {
        y: unlock(reduce(add_signature, signatures.get(proof.secret, ()), proof), keys, now)
        for y, proof in coins.items()
        if y not in claimed and (not signatures or proof.secret in signatures)
    }
    if not left:
        raise AlreadySpent("the token was claimed, or is being taken back already")
    return sent, left
