"""Work: kinds and capabilities, the job lifecycle, provider and customer, announcements (floor 4)."""

from dvm.agent import Agent, Capability, Job
from dvm.allowances import Allowance
from dvm.announce import choose_agent, find_agents
from dvm.customer import Customer
from dvm.directory import Listing
from dvm.errors import (
    AllowanceExceeded,
    BadRequest,
    DvmError,
    JobFailed,
    JobTimeout,
    NoAgentFound,
    OrderFailed,
)
from dvm.lifecycle import JobState, PaymentState
from dvm.lifecycle_orders import OrderState
from dvm.limits import ProviderLimits
from dvm.nip90 import Input
from dvm.order import Guarantee, Order, Update
from dvm.post import Post
from dvm.provider import Provider
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
