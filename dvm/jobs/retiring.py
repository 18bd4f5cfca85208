"""What an agent's key has open that was handed on: while there is anything, it is still served."""

from dvm import queries, queries_invoices
from dvm.jobs.lifecycle import JobState
from store import Database
from wallet import queries_escrows
from wallet.escrow import Role

_UNENDED = [state for state in JobState if not state.is_final]


async def has_open_work(db: Database, public_key: str) -> bool:
    """Whether a job, a payment, an invoice or an escrow of this key has not ended."""
    return bool(
        await queries.jobs_in(db, public_key, *_UNENDED)
        or await queries.open_payments(db, public_key)
        or await queries_invoices.next_due(db, public_key) is not None
        or await queries_invoices.surplus_invoices(db, public_key)
        or await queries_escrows.count_open(db, public_key, Role.PROVIDER)
    )
