"""Work: kinds and capabilities, the job lifecycle, provider and customer, announcements (floor 4)."""

from dvm.agent import Agent, Capability, Job
from dvm.discovery.announce import choose_agent, find_agents
from dvm.discovery.directory import Listing
from dvm.errors import (
    AllowanceExceeded,
    BadRequest,
    DvmError,
    JobFailed,
    JobTimeout,
    NoAgentFound,
    OrderFailed,
)
from dvm.jobs.lifecycle import JobState, PaymentState
from dvm.jobs.provider import Provider
from dvm.limits import ProviderLimits
from dvm.nip90 import Input
from dvm.orders.allowances import Allowance
from dvm.orders.customer import Customer
from dvm.orders.lifecycle import OrderState
from dvm.orders.order import Guarantee, Order, Update
from dvm.post import Post
from dvm.schemas import Param
from wallet.errors import Action

__all__ = [
    "Action",
    "Agent",
    "Allowance",
    "AllowanceExceeded",
    "BadRequest",
    "Capability",
    "Customer",
    "DvmError",
    "Guarantee",
    "Input",
    "Job",
    "JobFailed",
    "JobState",
    "JobTimeout",
    "Listing",
    "NoAgentFound",
    "Order",
    "OrderFailed",
    "OrderState",
    "Param",
    "PaymentState",
    "Post",
    "Provider",
    "ProviderLimits",
    "Update",
    "choose_agent",
    "find_agents",
]
