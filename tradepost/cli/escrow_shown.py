"""Escrows of this post, found and shown."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich.table import Table

from dvm.escrow.standing import awards, possible, review_until
from dvm.queries import OrderRow, get_order
from identity import encode_npub
from store import Database, SystemClock
from tradepost.cli.escrow_words import fee_told, fields, next_step, ruled
from tradepost.cli.jobs import shortened, tag_values
from tradepost.cli.output import local_time, print_json, print_pairs, print_table, print_text, quoted, say
from tradepost.errors import TradepostError
from tradepost.post import read_database
from tradepost.settings import Settings
from wallet import queries_escrows
from wallet.escrow import Role
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

_NEEDS: Final = {"dispute": " --reason TEXT", "answer": " --text TEXT", "rule": " --provider SAT"}
_BY: Final = {
    Method.ESCROW: "escrow: locked for two of agent, customer and arbiter",
    Method.REVEAL: "reveal: locked for the key of the sealed result",
}


class Case(NamedTuple):
    """An escrow, and at its customer the order that pays for hearing the dispute, if there is one."""

    row: EscrowRow
    fee: OrderRow | None


async def with_fee(db: Database, row: EscrowRow) -> Case:
    """The escrow with the order of its hearing."""
    is_ordered = row.role is Role.CUSTOMER and row.fee_order is not None
    return Case(row, await get_order(db, row.fee_order or "") if is_ordered else None)


async def again(db: Database, row: EscrowRow) -> Case:
    """The same escrow as it stands now."""
    now = await queries_escrows.get(db, *row.key)
    assert now is not None
    return await with_fee(db, now)


async def newest(limit: int) -> list[Case]:
    """The newest first."""
    async with read_database(Settings.load()) as db:
        return [await with_fee(db, row) for row in await queries_escrows.newest(db, limit)]


async def find(prefix: str) -> list[Case]:
    """This post's views of the escrows whose job's id begins so. Raises `TradepostError` if there is none."""
    if not prefix:
        raise TradepostError("an id is needed, or its beginning; `tradepost escrow list` shows all")
    async with read_database(Settings.load()) as db:
        rows = await queries_escrows.find(db, prefix.lower())
        if not rows:
            raise TradepostError(f"no escrow begins with {prefix[:64]!r}; `tradepost escrow list` shows all")
        return [await with_fee(db, row) for row in rows]


async def find_one(prefix: str, role: Role) -> Case:
    """The one escrow in which this post has that role. Raises `TradepostError`."""
    found = await find(prefix)
    cases = [case for case in found if case.row.role is role]
    if len({case.row.request_id for case in cases or found}) > 1:
        raise TradepostError(
            f"several escrows begin with {prefix[:64]!r}: give more of the id; `tradepost escrow list` shows all"
        )
    if not cases:
        roles = " and ".join(sorted({case.row.role for case in found}))
        short = found[0].row.request_id[:12]
        raise TradepostError(
            f"this post is the {roles} of escrow {short}, not its {role}, and only that may do this; "
            f"`tradepost escrow show {short}` tells what you can do"
        )
    if len(cases) > 1:
        raise TradepostError(
            f"{len(cases)} {role}s of this post have a part in escrow {cases[0].row.request_id[:12]}"
        )
    return cases[0]


def print_escrows(cases: Sequence[Case], *, as_json: bool) -> None:
    """One line for each on stdout; within 80 columns for people."""
    now = SystemClock().now()
    if as_json:
        for case in cases:
            print_json(fields(*case, now))
        return
    if not cases:
        say("[dim]nothing is or was in escrow here[/]")
        return
    table = Table("id", "as", "by", "stage", "sat", "next", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[:5]:
        column.no_wrap = True
    table.columns[4].justify = "right"
    for row, fee in cases:
        step = next_step(row, fee, now)
        table.add_row(
            row.request_id[:12], row.role, row.terms.method, row.stage, str(row.terms.price_sat), step
        )
    print_table(table)


def print_details(case: Case) -> None:
    """All of one escrow, for a person."""
    row, fee = case
    terms, now = row.terms, SystemClock().now()
    pairs = {
        "job": row.request_id,
        "as": row.role,
        "by": _BY.get(terms.method, terms.method),
        "stage": f"{row.stage}{': ' + row.reason if row.reason else ''}",
        "next": next_step(row, fee, now),
        "ruled": ruled(awards(row)),
        "you can": "\n".join(_commands(row, possible(row, now))),
        "provider": encode_npub(terms.provider),
        "customer": encode_npub(terms.customer),
        "arbiter": encode_npub(terms.arbiter) if terms.arbiter else "",
        "fee": fee_told(row, fee),
        "fee's job": row.fee_order or "",
        "price": f"{terms.price_sat} sat at {terms.mint}",
        "received": f"{row.amount_sat} sat" if row.amount_sat else "",
        "deliver by": local_time(terms.deliver_by),
        "delivered": local_time(row.delivered_at) if row.delivered_at else "",
        "review": _review(row),
        "rule by": local_time(terms.claim_until) if terms.arbiter else "",
        "locked until": local_time(terms.locktime),
        "input": shortened("\n\n".join(tag_values(row.request.tags, "i"))),
        "params": "\n".join(tag_values(row.request.tags, "param")),
        "said": "\n".join(f"{one['by']}: {one['text']}" for one in row.statements),
    }
    print_pairs((name, quoted(value)) for name, value in pairs.items() if value)
    if row.role is Role.ARBITER and row.result is not None:  # the parties have it with their job
        say("[dim]result[/]")
        print_text(row.result.content)


def _review(row: EscrowRow) -> str:
    until = review_until(row)
    if until is not None:
        return f"until {local_time(until)}"
    is_to_come = row.terms.arbiter is not None and not row.stage.is_final
    return f"{row.terms.review_seconds} s after delivery" if is_to_come else ""


def _commands(row: EscrowRow, actions: Iterable[str]) -> list[str]:
    return [f"tradepost escrow {action} {row.request_id[:12]}{_NEEDS.get(action, '')}" for action in actions]
