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

from wallet.errors import Action


class DvmError(Exception):
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
    """An order ended without a result. `state` is the order's last one, `money` says in words where the sats are."""

    def __init__(self, reason: str, *, state: str, money: str, action: Action) -> None:
        super().__init__(f"{reason}; {money}", action=action)
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
