"""The SQL of jobs that are done before they are paid, their results sealed. The rest of dvm's is in queries.py."""

from dvm.queries import JobRow
from store import Transaction


async def lend(tx: Transaction, job: JobRow) -> None:
    """Note that a job is done at our risk."""
    await tx.execute(
        "INSERT INTO reveal_credits (agent, job_id, customer, price_msat, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (agent, job_id) DO NOTHING",
        job.agent, job.id, job.customer, job.price_msat, job.created_at,
    )  # fmt: skip


async def strike(tx: Transaction, agent: str, job_id: str) -> None:
    """It is at our risk no more: paid, or nothing was done."""
    await tx.execute("DELETE FROM reveal_credits WHERE agent = ? AND job_id = ?", agent, job_id)


async def lent_msat(tx: Transaction, agent: str, customer: str) -> int:
    """What is done, or under way, for a customer that has not paid for it."""
    row = await tx.one(
        "SELECT COALESCE(SUM(price_msat), 0) AS msat FROM reveal_credits WHERE agent = ? AND customer = ?",
        agent,
        customer,
    )
    return int(row["msat"]) if row else 0
