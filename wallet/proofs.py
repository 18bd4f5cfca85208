"""What ecash is made of: proofs and tokens as plain values, and proofs as JSON (NUT-00, NUT-12)."""

import re
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from wallet.errors import InvalidToken

SAT: Final = "sat"
AMOUNT_MAX: Final = 2**63
SECRET_CHARS_MAX: Final = 1024  # mints refuse longer ones, some only when the coin is spent
WITNESS_CHARS_MAX: Final = 8192
_KEYSET_ID: Final = re.compile(r"0[01][0-9a-f]{14}|01[0-9a-f]{64}")  # whole, or short as a token may name it
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}")
_SCALAR: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Dleq:
    """A mint's proof that it signed with the key it published (NUT-12); scalars in hex.

    `r` never goes to a mint.
    """

    e: str
    s: str
    r: str | None = field(default=None, repr=False)


class Coin(Protocol):
    """As much of a coin as it takes to choose it: a `Proof`, or less."""

    @property
    def amount(self) -> int:
        """In the unit of its keyset."""
        ...

    @property
    def id(self) -> str:
        """Of its keyset."""
        ...

    @property
    def secret(self) -> str:
        """Tells it from all others."""
        ...


@dataclass(frozen=True)
class Proof:
    """One coin. `secret` and `C` together are the money: they show in no `repr`."""

    amount: int
    id: str
    secret: str = field(repr=False)
    C: str = field(repr=False)
    dleq: Dleq | None = field(default=None, repr=False)
    witness: str | None = field(default=None, repr=False)

    def with_witness(self, witness: str) -> "Proof":
        """The same coin with the signatures that unlock it (NUT-10)."""
        return replace(self, witness=witness)

    def to_mint(self) -> dict[str, object]:
        """The JSON object of an input. No DLEQ: its `r` would tell the mint which signature this was."""
        raw: dict[str, object] = {"amount": self.amount, "id": self.id, "secret": self.secret, "C": self.C}
        if self.witness is not None:
            raw["witness"] = self.witness
        return raw

    def to_receiver(self) -> dict[str, object]:
        """The JSON object for the coin's next owner, who needs the whole DLEQ to check it."""
        raw = self.to_mint()
        if self.dleq is not None and self.dleq.r is not None:
            raw["dleq"] = {"e": self.dleq.e, "s": self.dleq.s, "r": self.dleq.r}
        return raw


@dataclass(frozen=True)
class Token:
    """Coins of one mint on their way to somebody (NUT-00)."""

    mint: str
    proofs: tuple[Proof, ...]
    unit: str = SAT
    memo: str | None = None

    @property
    def amount(self) -> int:
        """Sum of the coins, in `unit`, before any input fee."""
        return sum(proof.amount for proof in self.proofs)


@dataclass(frozen=True)
class Lock:
    """A spending condition, exactly as two parties agreed on it; keys are 33-byte compressed hex.

    NUT-11: `n_sigs` of `pubkey` and `pubkeys`, and `n_sigs_refund` of the `refund` keys after `locktime`.
    With `hash`, the sha256 of 32 bytes in lowercase hex, NUT-14: the main path asks for these bytes besides.
    """

    pubkey: str
    locktime: int | None = None
    refund: tuple[str, ...] = ()
    pubkeys: tuple[str, ...] = ()
    n_sigs: int = 1
    n_sigs_refund: int = 1
    hash: str | None = None


def parse_proof(raw: object) -> Proof:
    """Read a coin's JSON object and check its form, not its signature.

    Raises `InvalidToken`; unknown members are ignored.
    """
    match raw:
        case {
            "amount": int(amount),
            "id": str(keyset_id),
            "secret": str(secret),
            "C": str(signature),
            **rest,
        }:
            dleq, witness = _parse_dleq(rest.get("dleq")), rest.get("witness")
        case _:
            raise InvalidToken("a coin is an object with amount, id, secret and C")
    if isinstance(amount, bool) or not 0 < amount <= AMOUNT_MAX:
        raise InvalidToken("a coin's amount is a whole number above zero")
    if not _KEYSET_ID.fullmatch(keyset_id):
        raise InvalidToken("a coin's keyset id is 00 or 01 and lowercase hex, whole or short")
    if not _POINT.fullmatch(signature):
        raise InvalidToken("a coin's C is a compressed point in lowercase hex")
    if not 0 < len(secret) <= SECRET_CHARS_MAX or not is_utf8(secret):
        raise InvalidToken(f"a coin's secret is 1 … {SECRET_CHARS_MAX} characters of text")
    if witness is not None and not (
        isinstance(witness, str) and len(witness) <= WITNESS_CHARS_MAX and is_utf8(witness)
    ):
        raise InvalidToken(f"a coin's witness is text of at most {WITNESS_CHARS_MAX} characters")
    return Proof(amount, keyset_id, secret, signature, dleq, witness)


def is_utf8(text: str) -> bool:
    """Whether the text can be UTF-8 at all: Python also holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_dleq(raw: object) -> Dleq | None:
    match raw:
        case None:
            return None
        case {"e": str(e), "s": str(s), "r": str(r)}:
            if all(_SCALAR.fullmatch(scalar) for scalar in (e, s, r)):
                return Dleq(e, s, r)
    raise InvalidToken("a coin's DLEQ is e, s and r, each 64 lowercase hex digits")
