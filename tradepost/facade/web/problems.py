"""What a caller is told when something does not work: one shape, with one code for each kind of trouble."""

from typing import Any, ClassVar, Final

import msgspec
import structlog
from aiohttp import web

from dvm import AllowanceExceeded, BadRequest, DvmError, NoAgentFound
from identity import IdentityError, SignerUnavailable
from relay_bridge.errors import InvalidRelayUrl, PrivateAddress, RelayBridgeError
from store import CodedError
from tradepost.errors import TradepostError
from tradepost.facade.web.headers import json_response
from wallet import MintUnavailable, WalletError
from wallet.errors import (
    Action,
    ExposureExceeded,
    InsufficientFunds,
    InvalidToken,
    LnurlUnavailable,
    RailUnavailable,
)

log = structlog.get_logger(__name__)
#: The status of errors that other packages raise; the first that fits. Others of theirs are 400.
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (NoAgentFound, 404),
    (AllowanceExceeded, 403),
    (BadRequest, 400),
    (InvalidToken, 400),
    (InsufficientFunds, 503),  # our own wallet, at the mint in question
    (ExposureExceeded, 503),
    (MintUnavailable, 503),
    (LnurlUnavailable, 503),
    (RailUnavailable, 503),
    (SignerUnavailable, 503),
    (PrivateAddress, 400),
    (InvalidRelayUrl, 400),
    (RelayBridgeError, 503),
)
_RETRY_SECONDS: Final = 5
#: How to sign instead, for which no scheme of WWW-Authenticate is registered (RFC 9421 §5.1).
ACCEPT_SIGNATURE: Final = 'sig=("@method" "@target-uri" "content-digest");created;nonce;keyid;alg="ed25519"'


class Problem(msgspec.Struct, frozen=True, omit_defaults=False):
    """An error. `code` never changes, `message` is for people and says what to do next, `action` for programs.

    `retry_after`: seconds, if the same may work then. `money`: where the caller's sats are now, if any were touched.
    `payment`: how to pay, of `payment_required`; of others the `ticket` alone that sats were brought for.
    """

    code: str
    message: str
    action: Action
    retry_after: int | None = None
    money: str | None = None
    payment: Any | None = None


class Refusal(CodedError):  # noqa: N818 - what it is, not that it is an error
    """The desk will not do that. Subclasses, one for each code, name their status; see docs/errors.md."""

    status: ClassVar[int] = 400
    action: Action = Action.GIVE_UP

    def __init__(
        self,
        message: str,
        *,
        action: Action | None = None,
        retry_after: int | None = None,
        money: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.action = action or type(self).action
        self.retry_after = retry_after
        self.money = money
        self.headers = headers or {}


class NotValid(Refusal):
    """The request is not what the operation takes."""

    status = 400


class Unauthorized(Refusal):
    """No credentials, or such as do not hold."""

    status = 401


class Forbidden(Refusal):
    """Who calls may not do that."""

    status = 403


class NotFound(Refusal):
    """There is nothing of that name that this caller may see."""

    status = 404


class Conflict(Refusal):
    """It is too late for that, or the same name was used for something else."""

    status = 409


class IdempotencyKeyReused(Refusal):
    """The Idempotency-Key was sent with another request before."""

    status = 422


class PaymentRequired(Refusal):
    """The caller's sats here do not cover what was asked for. `payment` says how to bring some."""

    status = 402
    action = Action.FUND

    def __init__(self, message: str, *, payment: Any, money: str, headers: dict[str, str]) -> None:
        super().__init__(message, money=money, headers=headers)
        self.payment = payment


class UnsupportedMediaType(Refusal):
    """The body comes compressed, or in another way that nobody undoes here."""

    status = 415


class TooManyRequests(Refusal):
    """More than the limits of a caller's tier."""

    status = 429
    action = Action.RETRY_AFTER


def problem_response(error: Exception) -> web.Response:
    """The answer that tells an error."""
    status, problem = problem_of(error)
    headers = dict(error.headers) if isinstance(error, Refusal) else {}
    if isinstance(error, web.HTTPException) and (allowed := error.headers.get("Allow")):
        headers["Allow"] = allowed
    if status == Unauthorized.status:
        headers["WWW-Authenticate"] = "Nostr, Bearer"
        headers["Accept-Signature"] = ACCEPT_SIGNATURE
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return json_response(problem, status, headers)


def wallet_response(error: Exception) -> web.Response:
    """The same for Lightning wallets, which read errors with status 200 (LUD-01)."""
    return json_response({"status": "ERROR", "reason": problem_of(error)[1].message})


def problem_of(error: Exception) -> tuple[int, Problem]:
    """Status and shape of an error. One that nobody foresaw is logged, and told without its words."""
    match error:
        case Refusal():
            return error.status, Problem(
                error.code,
                str(error),
                error.action,
                error.retry_after,
                error.money,
                getattr(error, "payment", None),
            )
        case web.HTTPException():
            words = (error.reason or "refused").lower()
            return error.status, Problem(words.replace(" ", "_"), words, Action.GIVE_UP)
        case DvmError() | WalletError():
            wait = _RETRY_SECONDS if error.action in (Action.RETRY_AFTER, Action.WAIT) else None
            told = Problem(error.code, str(error), error.action, wait, getattr(error, "money", None))
            return status_of(type(error)), told
        case IdentityError() | TradepostError() | RelayBridgeError():
            status = status_of(type(error))
            action, wait = (Action.RETRY_AFTER, _RETRY_SECONDS) if status == 503 else (Action.GIVE_UP, None)
            return status, Problem(error.code, str(error), action, wait)
        case _:
            log.error("request_failed", exc_info=error)
            said = "this post could not do that; its operator finds the reason in the log"
            return 500, Problem("internal", said, Action.RETRY_AFTER, _RETRY_SECONDS)


def status_of(kind: type[Exception]) -> int:
    """The HTTP status of a kind of error that callers are told by its code."""
    if issubclass(kind, Refusal):
        return kind.status
    return next((status for one, status in _STATUS if issubclass(kind, one)), 400)
