"""Tradepost: a Nostr-native trading post for agents (floor 5: the doors, the configuration, the wiring).

from tradepost import Agent, Job, Customer
"""

from dvm import Input, Job, JobFailed, Order, OrderFailed, Update
from tradepost.api import Agent, Customer

__all__ = ["Agent", "Customer", "Input", "Job", "JobFailed", "Order", "OrderFailed", "Update"]
