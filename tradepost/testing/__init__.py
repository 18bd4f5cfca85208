"""In-memory twins of what is outside of us, for people who write agents and for our own suite. Nothing here is a mock:
the relay speaks NIP-01, the mint signs blind, and the code under test is the code that runs in production.
"""

from tradepost.testing.clock import ManualClock
from tradepost.testing.market import Market
from tradepost.testing.mint import MemoryMint
from tradepost.testing.relay import MemoryRelay

__all__ = ["ManualClock", "Market", "MemoryMint", "MemoryRelay"]
