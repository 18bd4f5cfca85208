"""The figures: one file each, with a `measure(rounds, …)` that returns a `Figure`."""

from collections.abc import Callable

from bench.figures import (
    agents,
    audit,
    commits,
    ecash,
    encryption,
    escrow,
    growth,
    http,
    ingestion,
    jobs,
    ledger,
    memory,
    receipts,
    relays,
)
from bench.measure import Figure

FIGURES: dict[str, Callable[[int], Figure]] = {
    "jobs": jobs.measure,
    "ingestion": ingestion.measure,
    "memory": memory.measure,
    "growth": growth.measure,
    "relays": relays.measure,
    "agents": agents.measure,
    "ecash": ecash.measure,
    "escrow": escrow.measure,
    "encryption": encryption.measure,
    "commits": commits.measure,
    "ledger": ledger.measure,
    "audit": audit.measure,
    "receipts": receipts.measure,
    "http": http.measure,
}
