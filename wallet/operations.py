"""What the engine speaks about: operations, their plans, their outcomes.

An operation is one exchange with one mint. Its life: `planned` (coins reserved, nothing acted on, given up at the next
start) → `open` (recorded in the caller's transaction; from here it is driven to an end, across restarts) → `done`,
`failed` (nothing happened, our coins are free again) or `lost` (somebody else spent the coins first).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from wallet.mint import BlindedMessage
from wallet.proofs import Token

AMOUNT_SAT_MAX: Final = 21 * 10**14  # all there will ever be
OP_ID_CHARS_MAX: Final = 200


class Kind(StrEnum):
    """What an operation is for; all but the last three are one swap (NUT-03)."""

    SEND = "send"
    REDEEM = "redeem"
    RETURN = "return"
    RECLAIM = "reclaim"
    PROBE = "probe"  # a swap that the mint should refuse
    MINT = "mint"
    MELT = "melt"
    RESTORE = "restore"  # coins found again by the seed; asks nothing of the mint but what became of them


class State(StrEnum):
    """Where an operation stands."""

    PLANNED = "planned"
    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"


class Role(StrEnum):
    """Whose coin an output becomes."""

    KEEP = "keep"  # ours
    SEND = "send"  # part of a token for somebody else
    BLANK = "blank"  # ours, its amount set by the mint (NUT-08)


@dataclass(frozen=True)
class Output:
    """A blinded message and what unblinds it. `attempt` counts the requests of one operation from 0."""

    attempt: int
    position: int
    role: Role
    keyset_id: str
    counter: int
    amount: int
    secret: str = field(repr=False)
    blinding_factor: bytes = field(repr=False)
    blinded: str = field(repr=False)

    @property
    def message(self) -> BlindedMessage:
        """What the mint is shown. A blank's amount means nothing, but some mints want one (NUT-08)."""
        return BlindedMessage(amount=self.amount or 1, id=self.keyset_id, B_=self.blinded)


@dataclass(frozen=True)
class Plan:
    """An operation that is prepared and not yet decided: give it to `Wallet.record` or `Wallet.release`.

    `send_sat` is the face value of the token it will make, `keep_sat` what comes back to us (change included),
    `fee_sat` what the mint takes: inputs = send + keep + fee. Of a payment's `keep_sat` routing may cost up to
    `reserve_sat`.
    """

    op_id: str
    plan_id: str
    kind: Kind
    mint: str
    send_sat: int
    keep_sat: int
    fee_sat: int
    outputs: tuple[Output, ...] = field(repr=False)
    reserve_sat: int = 0


@dataclass(frozen=True)
class Outcome:
    """How an operation ended: `done`, `failed` or `lost`. Asking again gives an equal answer.

    `received_sat` came to us from outside, `sent_sat` left us (the face value of `token`, or the invoice paid),
    `fee_sat` went to the mint. Change is none of them. `error` says in words why it is not done, else None.
    """

    op_id: str
    state: State
    received_sat: int
    sent_sat: int
    fee_sat: int
    token: Token | None = field(default=None, repr=False)
    error: str | None = None


@dataclass(frozen=True)
class Examined:
    """What foreign coins are worth: their sum, the fee of swapping them, the rest; `ys` name them (NUT-07)."""

    amount_sat: int
    fee_sat: int
    net_sat: int
    ys: tuple[str, ...]


@dataclass(frozen=True)
class Enforced:
    """Which locks a mint was seen to enforce in the version it has now; none where `checked_at` is None: not probed.

    `p2pk`: no coin without its key's signature. `multisig`: none with one signature of two. `refund`: none by the
    refund key before the locktime. `htlc`: none without the preimage, or by the preimage alone (NUT-11, NUT-14).
    """

    version: str
    p2pk: bool = False
    multisig: bool = False
    refund: bool = False
    htlc: bool = False
    checked_at: int | None = None


@dataclass(frozen=True)
class Quote:
    """A Lightning invoice that turns into our coins once it is paid (NUT-04); `expiry` is the invoice's."""

    id: str
    mint: str
    amount_sat: int
    bolt11: str
    expiry: int | None
    job_id: str | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """One operation as a person reads it; amounts as in `Outcome`, zero while it is open."""

    op_id: str
    kind: Kind
    state: State
    mint: str
    purpose: str
    job_id: str | None
    received_sat: int
    sent_sat: int
    fee_sat: int
    created_at: int
    closed_at: int | None


def share(
    kind: Kind, total_sat: int, fee_sat: int, *, send_sat: int, keep_sat: int
) -> tuple[int, int] | None:
    """How a swap's inputs divide into (send, keep): send fixes the first, return the second, the others keep all.

    None if the inputs do not reach, or if nothing would be made of them.
    """
    rest = total_sat - fee_sat
    match kind:
        case Kind.SEND:
            shares = send_sat, rest - send_sat
        case Kind.RETURN:
            shares = rest - keep_sat, keep_sat
        case _:
            shares = 0, rest
    return (
        shares
        if min(shares) >= 0 and sum(shares) > 0 and (kind is not Kind.RETURN or shares[0] > 0)
        else None
    )
