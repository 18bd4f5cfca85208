"""Memory: the one database of a post, its transactions and migrations, and the clock (floor 0)."""

from store.clock import Clock, SystemClock
from store.database import Database
from store.errors import CodedError, MigrationError, StoreError
from store.migrations import Migration, load_migrations
from store.snapshot import Snapshot
from store.transaction import Also, Row, Transaction
from store.turns import Turns

__all__ = [
    "Also",
    "Clock",
    "CodedError",
    "Database",
    "Migration",
    "MigrationError",
    "Row",
    "Snapshot",
    "StoreError",
    "SystemClock",
    "Transaction",
    "Turns",
    "load_migrations",
]
