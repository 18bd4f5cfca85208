"""Tradepost: a Nostr-native trading post for agents (floor 5: the doors, the configuration, the wiring).

from tradepost import Agent, Job, Customer
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvm import AllowanceExceeded, Guarantee, Input, Job, JobFailed, Order, OrderFailed, Param, Update
    from tradepost.api import Agent, Customer

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
    "Update",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: the command's help and completion need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("tradepost.api" if name in ("Agent", "Customer") else "dvm"), name)
