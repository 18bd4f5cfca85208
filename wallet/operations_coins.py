"""From amounts to blinded messages, and from a mint's signatures to coins (NUT-00, NUT-12, NUT-13). Pure, and heavy on
the processor: an output takes 60 µs, a coin 220; call for many through `computed`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from wallet.crypto import blind, proof_y, unblind, verify_dleq_signature
from wallet.errors import InvalidKeyset, InvalidProof
from wallet.keysets import Keyset
from wallet.locks import lock_secret
from wallet.mint import BlindSignature
from wallet.operations import Output, Role
from wallet.proofs import Dleq, Lock, Proof
from wallet.seed import Seed
from wallet.selection import split_amount

_HERE_MAX: Final = 8  # coins of two milliseconds; a thread for less costs more than it frees
_T = TypeVar("_T")


async def computed(coins: int, work: Callable[[], _T]) -> _T:
    """What `work` on so many coins returns; on the loop if they are few, else in a thread."""
    return work() if coins <= _HERE_MAX else await asyncio.to_thread(work)


@dataclass(frozen=True)
class Made:
    """A new coin, how the mint names it (NUT-07), and whose it is."""

    y: str
    role: Role
    proof: Proof


def wanted_coins(*, send_sat: int, keep_sat: int, amounts: Sequence[int] = ()) -> list[tuple[Role, int]]:
    """The coins for two sums. Ordered by amount, so that the mint does not see which are change (NUT-03).

    `amounts` are those of the coins to send, if there are to be others than the fewest.
    """
    coins = [(Role.SEND, amount) for amount in amounts or split_amount(send_sat)]
    coins += [(Role.KEEP, amount) for amount in split_amount(keep_sat)]
    return sorted(coins, key=lambda coin: coin[1])


def make_outputs(
    seed: Seed,
    keyset_id: str,
    wanted: Sequence[tuple[Role, int]],
    *,
    first_counter: int,
    attempt: int,
    lock: Lock | None = None,
) -> tuple[Output, ...]:
    """Derive and blind one output per wanted coin; `lock` applies to what is for somebody else.

    A locked coin takes a counter of the same sequence: its secret is the lock's nonce, its r the blinding factor.
    """
    outputs = []
    for position, (role, amount) in enumerate(wanted):
        counter = first_counter + position
        secret, r = seed.output_secret(keyset_id, counter)
        if lock is not None and role is Role.SEND:
            secret = lock_secret(lock, secret)
        outputs.append(
            Output(attempt, position, role, keyset_id, counter, amount, secret, r, blind(secret, r)),
        )
    return tuple(outputs)


def make_coins(
    pairs: Iterable[tuple[Output, BlindSignature]], keysets: Mapping[str, Keyset]
) -> tuple[Made, ...]:
    """Check and unblind signatures. Raises `InvalidProof` unless every one is of the keyset and amount that was asked
    for (a blank's amount is the mint's to say) and proves that the published key made it.
    """
    return tuple(make_coin(output, signature, keysets) for output, signature in pairs)


def make_coin(
    output: Output, signature: BlindSignature, keysets: Mapping[str, Keyset], *, need_dleq: bool = True
) -> Made:
    """One coin; raises as `make_coins`. Mints do not keep the proof of very old signatures: `need_dleq` False takes
    those without one, and still none with a wrong one.
    """
    if signature.id != output.keyset_id:
        raise InvalidProof("the mint signed with another keyset than asked for")
    if output.role is not Role.BLANK and signature.amount != output.amount:
        raise InvalidProof(f"the mint signed {signature.amount} sat where {output.amount} were asked for")
    if output.keyset_id not in keysets:
        raise InvalidKeyset(f"keyset {output.keyset_id} is not pinned")
    key = keysets[output.keyset_id].key(signature.amount)
    dleq = signature.dleq
    if dleq is None and need_dleq:
        raise InvalidProof("the mint did not prove that it signed with its published key")
    if dleq and not verify_dleq_signature(output.blinded, signature.C_, Dleq(dleq.e, dleq.s), key):
        raise InvalidProof("the mint's proof that it signed with its published key is wrong")
    proof = Proof(
        amount=signature.amount,
        id=output.keyset_id,
        secret=output.secret,
        C=unblind(signature.C_, output.blinding_factor, key),
        dleq=Dleq(dleq.e, dleq.s, output.blinding_factor.hex()) if dleq else None,
    )
    return Made(proof_y(output.secret), output.role, proof)
