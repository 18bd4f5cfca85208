"""Tradepost: a Nostr-native trading post for agents (floor 5: the doors, the configuration, the wiring).

from tradepost import Agent, Job, Customer
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvm import AllowanceExceeded, Guarantee, Input, Job, JobFailed, Order, OrderFailed, Param, Update
    from tradepost.api import Agent, Customer
    from tradepost.reputation import Reputation, verify_receipt

__all__ = [
    "Agent",
    "AllowanceExceeded",
    "Customer",
    "Guarantee",
    "Input",
    "Job",
    "JobFailed",
    "Order",
    "OrderFailed",
    "Param",
    "Reputation",
    "Update",
    "verify_receipt",
]

_HOMES = {
    "Agent": "tradepost.api",
    "Customer": "tradepost.api",
    "Reputation": "tradepost.reputation",
    "verify_receipt": "tradepost.reputation",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: the command's help and completion need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "dvm")), name)
