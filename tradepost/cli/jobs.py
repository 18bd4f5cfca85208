"""`tradepost jobs` and `tradepost job`: what this post does for others, and what others do for it."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from typer.core import TyperGroup

from dvm import OrderFailed, OrderState, queries
from dvm.escrow.standing import awards
from dvm.kinds import name_of
from dvm.private import reveal, scheme_of
from dvm.queries import JobRow, OrderRow
from dvm.queries_reputation import review_of
from dvm.reveals import sealed_text
from identity import Event, EventTemplate, LocalSigner, SecretKey, encode_npub, read_key_file
from identity.receipts import RATING_MAX, parse_review
from store import Database
from tradepost.api import open_customer
from tradepost.cli.completing import complete_job
from tradepost.cli.escrow_words import ruled
from tradepost.cli.output import (
    AsJson,
    local_time,
    print_json,
    print_pairs,
    print_table,
    print_text,
    quoted,
    say,
)
from tradepost.cli.signing import Sec, chosen_key
from tradepost.errors import TradepostError
from tradepost.post import open_post, read_database
from tradepost.secrets import CUSTOMER, Key, open_signer
from tradepost.settings import Settings
from wallet import queries_escrows
from wallet.escrow import Role, Stage

JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The id of a job, or the beginning of one.", autocompletion=complete_job
    ),
]
Row = dict[str, Any]
_ABOUT: Final = "Show one job: whose it is, its state, its money. Or take it back."
_LOCKED: Final = (OrderState.PAYING, OrderState.PAID, OrderState.AWAITING_REFUND)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(name="jobs")(jobs)
    one = typer.Typer(
        cls=_OneJob,
        help=_ABOUT,
        epilog="Example: `tradepost job 2e98eae4846c`",
        rich_markup_mode=None,
    )
    one.command(name="show", epilog="Example: `tradepost job 2e98eae4846c`")(show)
    one.command(name="cancel", epilog="Example: `tradepost job cancel 2e98eae4846c`")(cancel)
    app.add_typer(one, name="job")


class _OneJob(TyperGroup):
    """`tradepost job ID` is `tradepost job show ID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        ids = self.commands["show"].params[0].shell_complete(ctx, incomplete)
        return [*ids, *super().shell_complete(ctx, incomplete)]


def jobs(
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the jobs of this post, bought and sold.

    Example: `tradepost jobs --limit 5`
    """
    rows = asyncio.run(_recent(limit))
    if not rows and not as_json:
        say("no jobs yet: put an agent to work with `tradepost up`, or ask one with `tradepost ask`")
        if Settings.load().arbiter:
            say("what this post arbitrates is in `tradepost escrow list`")
    else:
        print_jobs(rows, as_json=as_json)


def show(job_id: JobId, as_json: AsJson = False) -> None:
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


def cancel(
    job_id: JobId,
    seconds: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="How long to wait for the agent's answer.")
    ] = 15,
    sec: Sec = "",
    as_json: AsJson = False,
) -> None:
    """Take back a job you asked for. What you paid returns unless its work has begun."""
    settings = Settings.load()
    key = chosen_key(settings, CUSTOMER, sec)
    asyncio.run(_cancel(settings, key, job_id.lower(), seconds, as_json))


async def _cancel(settings: Settings, key: Key, prefix: str, seconds: int, as_json: bool) -> None:
    async with open_signer(settings, key) as signer, open_post(settings) as post:
        row = await own_order(post.db, signer.public_key, prefix)
        async with open_customer(settings, post, signer) as customer:
            await customer.cancel(row.id)
            for order in await customer.open_orders():
                if order.id == row.id:  # it was paid: the agent says what becomes of that
                    with suppress(TimeoutError, OrderFailed):
                        await asyncio.wait_for(order.result(), seconds)
        row = await queries.get_order(post.db, row.id) or row
        print_jobs([await bought(post.db, row)], as_json=as_json)
        if not as_json and row.state is OrderState.DONE:
            say(f"too late: the work was done already, and `tradepost job {row.id[:12]}` shows it")
        elif not as_json and not row.state.is_final:
            say(f"{row.reason or 'the agent has not answered yet'}; `tradepost settle` goes on with it")


async def own_order(db: Database, customer: str, prefix: str) -> OrderRow:
    """The one order of `customer` whose id begins so. Raises `TradepostError` unless it is one."""
    rows = [row for row in await queries.find_orders(db, prefix) if row.customer == customer]
    if len(rows) != 1:
        found = f"{len(rows)} jobs you asked for begin" if rows else "no job you asked for begins"
        raise TradepostError(f"{found} with {prefix!r}; `tradepost jobs` lists them")
    return rows[0]


def print_jobs(rows: Iterable[Row], *, as_json: bool) -> None:
    """One line for each job on stdout; within 80 columns for people."""
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table("id", "side", "kind", "state", "sat", "created", box=None, pad_edge=False)
    table.columns[4].justify = "right"
    for row in rows:
        cells = (row["id"][:12], row["side"], name_of(row["kind"]), _state(row), str(row["price_sat"]))
        table.add_row(*cells, local_time(row["created_at"])[5:16])
    print_table(table)


def _state(row: Row) -> str:
    """The state; with what we got of the price if a ruling shared it, or where the price is if it was not paid."""
    escrow = row["escrow"]
    if escrow and escrow["received_sat"] and all((escrow["awarded_sat"] or {"nobody": 0}).values()):
        return f"{row['state']} {escrow['received_sat']} of {row['price_sat']}"
    if escrow and row["state"] == OrderState.DONE and escrow["stage"] not in (Stage.PAID, Stage.RELEASED):
        return f"{row['state']}, {escrow['stage']}"
    return str(row["state"])


async def bought(db: Database, row: OrderRow) -> Row:
    """An order as programs see it."""
    more = {"mint": row.mint, "locktime": row.locktime, "max_sat": row.max_sat}
    escrow = await _escrow(db, Role.CUSTOMER, row.customer, row.id)
    return {"side": "bought", **_common(row), "agent": row.provider, **more, "escrow": escrow}


async def _sold(db: Database, row: JobRow) -> Row:
    escrow = await _escrow(db, Role.PROVIDER, row.agent, row.id)
    return {"side": "sold", **_common(row), "agent": row.agent, "escrow": escrow}


async def _escrow(db: Database, role: Role, party: str, job_id: str) -> Row | None:
    """What became of a job's escrow, if it has one."""
    row = await queries_escrows.get(db, role, party, job_id)
    if row is None:
        return None
    return {
        "stage": row.stage, "method": row.terms.method, "received_sat": row.amount_sat, "awarded_sat": awards(row),
    }  # fmt: skip


def _common(row: JobRow | OrderRow) -> Row:
    return {
        "id": row.id, "kind": row.kind, "state": str(row.state), "reason": row.reason, "price_sat": row.price_sat,
        "created_at": row.created_at, "updated_at": row.updated_at, "customer": row.customer,
        "private": scheme_of(row.request) is not None, "confidence": row.confidence,
    }  # fmt: skip


async def _recent(limit: int) -> list[Row]:
    async with read_database(Settings.load()) as db:
        sold = [await _sold(db, row) for row in await queries.recent_jobs(db, limit)]
        mine = [await bought(db, row) for row in await queries.recent_orders(db, limit)]
    return sorted(sold + mine, key=lambda row: -row["created_at"])[:limit]


async def _find(prefix: str) -> list[Row]:
    """Both sides of a job may be here."""
    rows: list[Row] = []
    async with read_database(Settings.load()) as db:
        for sold in await queries.find_jobs(db, prefix):
            payments = await queries.payments_of(db, sold.agent, sold.id)
            paid = [{"state": p.state, "amount_sat": p.amount_sat, "reason": p.reason} for p in payments]
            tags = None if scheme_of(sold.request) else sold.request.tags
            known = await review_of(db, sold.agent, sold.id)
            told = reviewed(known.event) | {"answer": known.answer} if known else None
            more: Row = {"payments": paid, "request": sold.request.to_dict(), "tags": tags, "review": told}
            rows.append({**await _sold(db, sold), **more})
        for order in await queries.find_orders(db, prefix):
            asked = await _clear(order.request, order)
            answer = await _clear(order.result, order) if order.result else None
            text = answer.content if answer else await sealed_text(db, order)
            known = await review_of(db, order.provider, order.id)
            told = reviewed(known.event) if known else None
            said = {"tags": asked.tags if asked else None, "result": text, "review": told}
            rows.append({**await bought(db, order), "request": order.request.to_dict(), **said})
    return rows


def reviewed(event: Event) -> Row:
    """A review as programs see it."""
    told = parse_review(event)
    return {"id": event.id, "rating": told.rating, "text": told.text, "evidence": told.evidence_class}


async def _clear(event: Event, order: OrderRow) -> Event | EventTemplate | None:
    """What an event of an order says; None if it is private and our customer's key is not at hand to read it."""
    if scheme_of(event) is None:
        return event
    path = Settings.load().key_file(CUSTOMER)
    key = read_key_file(path) if path.exists() else None
    if not isinstance(key, SecretKey) or key.public_key != order.customer:
        return None
    return await reveal(LocalSigner(key), event, order.provider)


def _print_details(row: Row) -> None:
    escrow = row["escrow"]
    pairs = {
        "job": row["id"],
        "side": row["side"],
        "kind": f"{row['kind']}, {name_of(row['kind'])}",
        "state": f"{row['state']}{': ' + row['reason'] if row['reason'] else ''}",
        "agent": encode_npub(row["agent"]),
        "customer": encode_npub(row["customer"]),
        "price": f"{row['price_sat']} sat",
        "escrow": f"{escrow['stage']}, see `tradepost escrow show {row['id'][:12]}`" if escrow else "",
        "ruled": ruled(escrow["awarded_sat"]) if escrow else "",
        "paid at": row.get("mint"),
        "locked until": local_time(row["locktime"]) if row["state"] in _LOCKED else None,
        "created": local_time(row["created_at"]),
        "changed": local_time(row["updated_at"]),
        "payments": "\n".join(_payment(payment) for payment in row.get("payments", ())),
        "private": "yes" if row["private"] else "",
        "confidence": "" if row["confidence"] is None else f"{row['confidence']:.2f}, says the agent",
        "review": review_words(row["review"]) if row.get("review") else "",
        "answer": (row.get("review") or {}).get("answer", ""),
        "input": shortened("\n\n".join(tag_values(row["tags"], "i"))),
        "params": "\n".join(tag_values(row["tags"], "param")),
    }
    print_pairs((name, quoted(value)) for name, value in pairs.items() if value)
    if row.get("result") is not None:
        say("[dim]result[/]")
        print_text(row["result"])


def review_words(review: Row) -> str:
    """What `reviewed` says, in words."""
    text = f": {review['text']}" if review["text"] else ""
    return f"{review['rating']} of {RATING_MAX}, evidence {review['evidence']}{text}"


def _payment(payment: Row) -> str:
    return f"{payment['amount_sat']} sat, {payment['state']}{': ' + payment['reason'] if payment['reason'] else ''}"


def tag_values(tags: Iterable[Sequence[str]] | None, name: str) -> list[str]:
    """What a request's tags of that name say; a request that was refused may hold anything."""
    named = [tag for tag in tags or () if tag and tag[0] == name]
    return [tag[1] if name == "i" else "=".join(tag[1:]) for tag in named if len(tag) > 1]


def shortened(text: str) -> str:
    """A long input as its first words and how many there are; another one as it is."""
    words = text.split()
    return text if len(words) <= 50 else f"{' '.join(words[:40])} … ({len(words)} words)"
