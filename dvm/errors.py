"""Errors of dvm.

DvmError(message, action)
├── BadRequest              a request we will not serve: malformed, too large, of a type we do not know
├── JobFailed               raise it in an agent's function to tell the customer why
│   └── JobTimeout          the work took longer than the agent allows
├── OrderFailed             the customer's side: no result, and where the money is
├── RunnerUnusable          what is to do an agent's work is wrong or missing: a setting, a program, the sandbox
├── AllowanceExceeded       an agent of ours wants to buy for more than it may spend
├── RotationRefused         an agent's log cannot go over to that key
└── NoAgentFound            no live agent announces the capability
"""

from enum import StrEnum

from store.errors import CodedError
from wallet.errors import Action


class Trouble(StrEnum):
    """Kinds of trouble with a job that no class of error stands for; codes of 7000 feedback and of `OrderFailed`."""

    # What an agent says.
    TOO_MANY_REQUESTS = "too_many_requests"
    FORBIDDEN = "forbidden"
    WORK_PROOF_MISSING = "work_proof_missing"
    REQUEST_EXPIRED = "request_expired"
    NO_ARBITER = "no_arbiter"
    PAYMENT_REFUSED = "payment_refused"
    PAYMENT_TOO_LOW = "payment_too_low"
    PAYMENT_NOT_NEEDED = "payment_not_needed"
    CANCELLED = "cancelled"
    # What its customer finds.
    NO_ANSWER = "no_answer"
    NO_RESULT = "no_result_in_time"
    OFFER_REFUSED = "offer_refused"
    PAYMENT_FAILED = "payment_failed"
    COINS_GONE = "coins_gone"
    FALSE_SEAL = "false_seal"
    GIVEN_UP = "given_up"


class DvmError(CodedError):
    """Base of this package's errors: a sentence for people and an `action` for programs."""

    def __init__(self, message: str, *, action: Action = Action.GIVE_UP) -> None:
        super().__init__(message)
        self.action = action


class BadRequest(DvmError):  # noqa: N818 - as HTTP calls it
    """A request we will not serve; the message goes to the customer."""


class JobFailed(DvmError):  # noqa: N818
    """The work could not be done; the message goes to the customer, and what was paid goes back."""


class JobTimeout(JobFailed):
    """The work took longer than the agent allows."""


class OrderFailed(DvmError):  # noqa: N818
    """An order ended without a result. `state` is the order's last one, `money` says in words where the sats are.

    `code` is the agent's if it sent one; else it is a `Trouble`, or `order_failed`.
    """

    def __init__(self, reason: str, *, state: str, money: str, action: Action, code: str = "") -> None:
        super().__init__(f"{reason}; {money}", action=action)
        self.code = code or self.code
        self.state = state
        self.money = money


class NoAgentFound(DvmError):  # noqa: N818
    """No live agent announces the capability on the relays asked."""


class RunnerUnusable(DvmError):  # noqa: N818
    """What is to do an agent's work cannot be used; the message is for the agent's owner and says what to mend."""


class AllowanceExceeded(DvmError):  # noqa: N818
    """A purchase would cost more than the agent's allowance has left; nothing was ordered.

    `left_sat` is what it may still spend; `renews_at` (unix seconds) when there is more, None if there will not be.
    """

    def __init__(self, message: str, *, left_sat: int, renews_at: int | None) -> None:
        super().__init__(message, action=Action.GIVE_UP if renews_at is None else Action.RETRY_AFTER)
        self.left_sat = left_sat
        self.renews_at = renews_at


class RotationRefused(DvmError):  # noqa: N818
    """An agent's log cannot go over to that key; nothing was changed."""
