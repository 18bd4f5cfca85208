"""`tradepost jobs` and `tradepost job`: what this post does for others, and what others do for it."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from dvm import OrderState, queries
from dvm.kinds import name_of
from dvm.queries import JobRow, OrderRow
from identity import encode_npub
from tradepost.cli.output import AsJson, local_time, print_json, print_pairs, print_text, quoted, result, say
from tradepost.errors import TradepostError
from tradepost.post import open_database
from tradepost.settings import Settings

Row = dict[str, Any]
_LOCKED: Final = (OrderState.PAYING, OrderState.PAID, OrderState.AWAITING_REFUND)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(name="jobs")(jobs)
    app.command(name="job")(job)


def jobs(
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the jobs of this post, bought and sold."""
    rows = asyncio.run(_recent(limit))
    if not rows and not as_json:
        say("no jobs yet: put an agent to work with `tradepost up`, or ask one with `tradepost ask`")
    else:
        print_jobs(rows, as_json=as_json)


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a job, or the beginning of one.")],
    as_json: AsJson = False,
) -> None:
    """Show one job: whose it is, its state, its money."""
    found = asyncio.run(_find(job_id.lower()))
    ids = {row["id"] for row in found}
    if not ids:
        raise TradepostError(f"no job here begins with {job_id!r}; `tradepost jobs` lists them")
    if len(ids) > 1:
        raise TradepostError(f"several jobs begin with {job_id!r}; give more of its digits")
    for row in found:
        if as_json:
            print_json(row)
        else:
            _print_details(row)


def print_jobs(rows: Iterable[Row], *, as_json: bool) -> None:
    """One line for each job on stdout; within 80 columns for people."""
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table("id", "side", "kind", "state", "sat", "created", box=None, pad_edge=False)
    table.columns[4].justify = "right"
    for row in rows:
        cells = (row["id"][:12], row["side"], name_of(row["kind"]), row["state"], str(row["price_sat"]))
        table.add_row(*cells, local_time(row["created_at"])[5:16])
    result.print(table)


def bought(row: OrderRow) -> Row:
    """An order as programs see it."""
    more = {"mint": row.mint, "locktime": row.locktime, "max_sat": row.max_sat}
    return {"side": "bought", **_common(row), "agent": row.provider, **more}


def _sold(row: JobRow) -> Row:
    return {"side": "sold", **_common(row), "agent": row.agent}


def _common(row: JobRow | OrderRow) -> Row:
    return {
        "id": row.id, "kind": row.kind, "state": str(row.state), "reason": row.reason, "price_sat": row.price_sat,
        "created_at": row.created_at, "updated_at": row.updated_at, "customer": row.customer,
    }  # fmt: skip


async def _recent(limit: int) -> list[Row]:
    async with await open_database(Settings.load()) as db:
        sold = [_sold(row) for row in await queries.recent_jobs(db, limit)]
        mine = [bought(row) for row in await queries.recent_orders(db, limit)]
    return sorted(sold + mine, key=lambda row: -row["created_at"])[:limit]


async def _find(prefix: str) -> list[Row]:
    """Both sides of a job may be here."""
    rows: list[Row] = []
    async with await open_database(Settings.load()) as db:
        for sold in await queries.find_jobs(db, prefix):
            payments = await queries.payments_of(db, sold.agent, sold.id)
            paid = [{"state": p.state, "amount_sat": p.amount_sat, "reason": p.reason} for p in payments]
            rows.append({**_sold(sold), "payments": paid, "request": sold.request.to_dict()})
        for order in await queries.find_orders(db, prefix):
            answer = order.result.content if order.result else None
            rows.append({**bought(order), "request": order.request.to_dict(), "result": answer})
    return rows


def _print_details(row: Row) -> None:
    pairs = {
        "job": row["id"],
        "side": row["side"],
        "kind": f"{row['kind']}, {name_of(row['kind'])}",
        "state": f"{row['state']}{': ' + row['reason'] if row['reason'] else ''}",
        "agent": encode_npub(row["agent"]),
        "customer": encode_npub(row["customer"]),
        "price": f"{row['price_sat']} sat",
        "paid at": row.get("mint"),
        "locked until": local_time(row["locktime"]) if row["state"] in _LOCKED else None,
        "created": local_time(row["created_at"]),
        "changed": local_time(row["updated_at"]),
        "payments": "\n".join(_payment(payment) for payment in row.get("payments", ())),
        "input": _shortened("\n\n".join(_values(row, "i"))),
        "params": "\n".join(_values(row, "param")),
    }
    print_pairs((name, quoted(value)) for name, value in pairs.items() if value)
    if row.get("result") is not None:
        say("[dim]result[/]")
        print_text(row["result"])


def _payment(payment: Row) -> str:
    return f"{payment['amount_sat']} sat, {payment['state']}{': ' + payment['reason'] if payment['reason'] else ''}"


def _values(row: Row, name: str) -> list[str]:
    """What the request's tags of that name say; a request that was refused may hold anything."""
    tags = [tag for tag in row["request"]["tags"] if tag and tag[0] == name]
    return [tag[1] if name == "i" else "=".join(tag[1:]) for tag in tags if len(tag) > 1]


def _shortened(text: str) -> str:
    words = text.split()
    return text if len(words) <= 50 else f"{' '.join(words[:40])} … ({len(words)} words)"
