"""Errors of the wallet.

WalletError                     `.action` says what to do next
├── InsufficientFunds           our coins at a mint do not cover an amount and its fees           fund
├── LimitExceeded               larger than this wallet handles or was allowed to spend           give_up
│   └── ExposureExceeded        would leave more at one mint than the configuration allows        wait
├── BooksError                  a posting that does not balance, or is in the books otherwise     give_up
├── InvalidSeed                 not a BIP-39 phrase                                               give_up
├── InvalidToken                not a Cashu token, or a coin without the form of one              give_up
│   └── InvalidProof            a coin or signature that its mint's keys did not make             give_up
├── InvalidRequest              not a NUT-18 payment request or payload                           give_up
├── InvalidLnurl                leads to no LNURL service, or the service's answer is not safe    give_up
├── LnurlRefused                the LNURL service understood and refused                          give_up
├── LnurlUnavailable            the LNURL service cannot be reached                               retry_after
├── InvalidKeyset               a mint's keys do not fit their id, or an id is unclear            give_up
├── WrongLock                   a spending condition that is not exactly the agreed one           give_up
├── WrongTerms                  an agreement that one of its parties could not sign               give_up
├── UnknownMint                 a mint that is not on our list                                    give_up
├── AlreadySpent                coins that somebody spent before us                               fund
├── RailCannot                  what none of our Lightning rails can do, said before money moves  give_up
├── PaidBefore                  an invoice that we have paid, or are paying, already              wait
├── RailRefused                 the wallet behind a rail understood and refused: `.nwc_code`      by code
├── RailUnavailable             the wallet behind a rail does not answer; nothing is known        retry_after
├── MintError                   the mint understood and refused: `.mint_code`, `.detail`          by code
└── MintUnavailable             the mint cannot be reached or answers rubbish; nothing is known   retry_after

No message ever holds a secret, a token, a proof or a preimage.
"""

from enum import StrEnum
from typing import ClassVar, Final

from store.errors import CodedError


class Action(StrEnum):
    """What the reader of an error should do next; part of the wire format of 7000 `error` feedback."""

    RETRY_AFTER = "retry_after"
    FUND = "fund"
    TOP_UP = "top_up"
    WAIT = "wait"
    CONTACT_ARBITER = "contact_arbiter"
    GIVE_UP = "give_up"


class WalletError(CodedError):
    """Base of this package's errors."""

    default_action: ClassVar[Action] = Action.GIVE_UP

    def __init__(self, message: str, *, action: Action | None = None) -> None:
        super().__init__(message)
        self.action: Action = action or self.default_action


class InsufficientFunds(WalletError):  # noqa: N818 - errors name the thing, as in the other packages
    """The free coins at one mint do not cover the amount and its fees; amounts in sat."""

    default_action = Action.FUND

    def __init__(self, *, needed_sat: int, available_sat: int) -> None:
        super().__init__(
            f"{needed_sat} sat are needed, {available_sat} sat are free here after fees; "
            "fund the wallet: `tradepost wallet fund`"
        )
        self.needed_sat = needed_sat
        self.available_sat = available_sat


class LimitExceeded(WalletError):  # noqa: N818
    """Larger than this wallet handles, or more than it was allowed to spend."""


class ExposureExceeded(LimitExceeded):
    """More would be at one mint than `mint_sat_max`; amounts in sat."""

    default_action = Action.WAIT

    def __init__(self, mint: str, *, held_sat: int, more_sat: int, max_sat: int) -> None:
        super().__init__(
            f"{more_sat} sat more at {mint} would pass its cap of {max_sat} sat, {held_sat} sat are there or on their "
            "way; use another mint, or make room: `tradepost wallet sweep`"
        )
        self.held_sat = held_sat
        self.more_sat = more_sat
        self.max_sat = max_sat


class BooksError(WalletError):
    """A posting that must not be written: it does not balance, or other entries are there under its id."""


class InvalidSeed(WalletError):  # noqa: N818
    """Not a BIP-39 phrase: wrong count, unknown word or wrong checksum."""


class InvalidToken(WalletError):  # noqa: N818
    """Not a Cashu token (NUT-00), or one we refuse to read: several mints, foreign unit, malformed coins."""


class InvalidProof(InvalidToken):
    """A coin or blind signature that the mint's published keys did not make (NUT-12), or no point at all."""


class InvalidRequest(WalletError):  # noqa: N818
    """Not a NUT-18 payment request or payment payload."""


class InvalidLnurl(WalletError):  # noqa: N818
    """A text that leads to no LNURL service, or an answer of one that is malformed or must not be followed."""


class LnurlRefused(WalletError):  # noqa: N818
    """An LNURL service understood and refused; the message quotes its reason."""


class LnurlUnavailable(WalletError):  # noqa: N818
    """An LNURL service cannot be reached, or its host is not one we may reach."""

    default_action = Action.RETRY_AFTER


class InvalidKeyset(WalletError):  # noqa: N818
    """Keys that are malformed or do not hash to their id, or an id unknown or ambiguous (NUT-01, NUT-02)."""


class WrongLock(WalletError):  # noqa: N818
    """A spending condition that is not exactly the agreed one, or none to agree to (NUT-10, NUT-11)."""


class WrongTerms(WalletError):  # noqa: N818
    """An escrow's terms that a party must not sign: times without room, keys or parties that are not distinct."""


class UnknownMint(WalletError):  # noqa: N818
    """A mint that is not on our list."""


class AlreadySpent(WalletError):  # noqa: N818
    """Coins that the mint says somebody spent before us (NUT-07)."""

    default_action = Action.FUND


class RailCannot(WalletError):  # noqa: N818
    """What a Lightning rail cannot do: an amount, a kind of invoice, a bound on fees. Nothing was asked of it."""


class PaidBefore(WalletError):  # noqa: N818
    """A payment of the same payment hash is under way or done; a second one could pay twice."""

    default_action = Action.WAIT


class RailUnavailable(WalletError):  # noqa: N818
    """The wallet behind a rail cannot be reached or answers rubbish. What was asked may or may not have happened."""

    default_action = Action.RETRY_AFTER


class MintUnavailable(WalletError):  # noqa: N818
    """The mint cannot be reached or answers rubbish. What was asked may or may not have happened."""

    default_action = Action.RETRY_AFTER


_ACTION_BY_CODE: Final = {
    11001: Action.FUND,  # inputs already spent
    11002: Action.WAIT,  # inputs are pending
    11004: Action.WAIT,  # outputs are pending
    12002: Action.RETRY_AFTER,  # keyset was rotated: fetch the keysets, then again
    20001: Action.WAIT,  # quote is not paid yet
    20005: Action.WAIT,  # quote is pending
}


class MintError(WalletError):
    """The mint understood and refused (`error_codes.md` of the NUTs).

    The code never decides about money: mints use one code for different things, so ask NUT-07 and NUT-09.
    """

    def __init__(self, *, mint_code: int, detail: str) -> None:
        """`detail` is the mint's own text; it is cut to 200 characters."""
        self.mint_code = mint_code
        self.detail = detail[:200]
        super().__init__(
            f"the mint refused ({mint_code}): {self.detail}", action=_ACTION_BY_CODE.get(mint_code)
        )


_ACTION_BY_NWC_CODE: Final = {
    "RATE_LIMITED": Action.RETRY_AFTER,
    "INSUFFICIENT_BALANCE": Action.FUND,
    "QUOTA_EXCEEDED": Action.TOP_UP,
}


class RailRefused(WalletError):  # noqa: N818
    """The wallet behind a rail understood and refused; `.nwc_code` is a word of NIP-47."""

    def __init__(self, *, nwc_code: str, detail: str) -> None:
        """`detail` is the wallet's own text; it is cut to 200 characters."""
        self.nwc_code = nwc_code[:40]
        self.detail = detail[:200]
        super().__init__(
            f"the wallet refused ({self.nwc_code}): {self.detail}", action=_ACTION_BY_NWC_CODE.get(nwc_code)
        )
