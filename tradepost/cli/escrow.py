"""`tradepost escrow`: money that is locked for a job until its customer is content, or its arbiter rules."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from dvm import OrderState, Post, ProviderLimits
from dvm.agreement import ARBITRATION
from dvm.arbiter import Arbiter
from dvm.escrow_desk import EscrowDesk
from dvm.escrow_messages import Wishes, write_message
from dvm.escrow_parties import ProviderDesk, fee_is_due
from dvm.queries import get_order
from identity import Signer, encode_npub
from identity.nip59 import wrap
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.api import open_customer
from tradepost.cli import seals
from tradepost.cli.output import AsJson, local_time, print_json, print_pairs, print_table, quoted, say
from tradepost.errors import PostBusy, TradepostError
from tradepost.post import open_database, open_post
from tradepost.secrets import Key, find_key, open_signer
from tradepost.settings import Settings
from wallet import queries_escrows as queries
from wallet.escrow import Accepted, Contested, EscrowInput, GivesBack, Role, Ruling, Stage, decide
from wallet.queries_escrows import EscrowRow

FEE_SECONDS_MAX: Final = 30
FEE_LOOKS_PER_SECOND: Final = 5
EscrowId = Annotated[str, typer.Argument(metavar="ID", help="The id of the job, or the beginning of one.")]
_ABOUT = "Money in escrow: what is held, accepted, disputed and ruled."

_MEANS: Final[dict[str, EscrowInput]] = {
    "accept": Accepted(), "dispute": Contested(), "give_back": GivesBack(), "rule": Ruling(),
}  # fmt: skip


def register(root: typer.Typer) -> None:
    """Add the commands to the application."""
    app = typer.Typer(
        help=_ABOUT, epilog="Example: `tradepost escrow list`", no_args_is_help=True, rich_markup_mode=None
    )
    app.command(name="list", epilog="Example: `tradepost escrow list --json`")(show_all)
    app.command(epilog="Example: `tradepost escrow show 2e98eae4846c`")(show)
    app.command(epilog="Example: `tradepost escrow accept 2e98eae4846c`")(accept)
    app.command(epilog="Example: `tradepost escrow dispute 2e98eae4846c --reason 'the text is empty'`")(
        dispute
    )
    app.command(epilog="Example: `tradepost escrow refund 2e98eae4846c`")(refund)
    app.command(epilog="Example: `tradepost escrow rule 2e98eae4846c --provider 10`")(rule)
    seals.register(app)
    root.add_typer(app, name="escrow")


def show_all(
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List escrows of this post, as customer, provider and arbiter."""
    _print(asyncio.run(_newest(limit)), as_json)


def show(escrow_id: EscrowId, as_json: AsJson = False) -> None:
    """Show one escrow: terms, deadlines, what was said."""
    for row in asyncio.run(_find(escrow_id)):
        if as_json:
            print_json(_plain(row) | {"terms": row.terms.to_dict(), "statements": row.statements})
        else:
            _print_details(row)


def accept(escrow_id: EscrowId, as_json: AsJson = False) -> None:
    """Pay for a result: sign the coins over to the provider. This cannot be taken back."""
    asyncio.run(_wish(escrow_id, Role.CUSTOMER, Wishes("accept"), as_json))


def dispute(
    escrow_id: EscrowId,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; the provider and the arbiter read it, nobody else does.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, whatever it costs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Refuse to pay for a result: the arbiter rules on it.

    If it named a fee for that, you pay it now, and have it back if it does not rule in time.
    """
    fee_sat = asyncio.run(_one(escrow_id, Role.CUSTOMER)).terms.arbiter_fee_sat
    if fee_sat and not yes:
        if not sys.stdin.isatty():
            raise TradepostError(
                f"the arbiter takes {fee_sat} sat for hearing it; say --yes if you will pay that"
            )
        typer.confirm(f"The arbiter takes {fee_sat} sat for hearing it. Go on?", abort=True, err=True)
    asyncio.run(_wish(escrow_id, Role.CUSTOMER, Wishes("dispute", reason), as_json))


def refund(escrow_id: EscrowId, as_json: AsJson = False) -> None:
    """As the provider, let the customer have the money back."""
    asyncio.run(_wish(escrow_id, Role.PROVIDER, Wishes("give_back"), as_json))


def rule(
    escrow_id: EscrowId,
    provider: Annotated[
        int, typer.Option(metavar="SAT", min=0, help="What the provider gets; the rest goes to the customer.")
    ],
    as_json: AsJson = False,
) -> None:
    """As the arbiter, end a dispute. The ruling is published, with hashes of what was said."""
    asyncio.run(_wish(escrow_id, Role.ARBITER, Wishes("rule", provider_sat=provider), as_json))


async def _wish(escrow_id: str, role: Role, wish: Wishes, as_json: bool) -> None:
    """Do it here; if the post is open in another process, tell that one, by a message to ourselves."""
    settings = Settings.load()
    row = await _one(escrow_id, role)
    async with open_signer(settings, _key_of(settings, row)) as signer:
        try:
            async with open_post(settings) as post, _desk(settings, post, signer, role) as desk:
                if not await desk.wish(row.request_id, wish):
                    raise _not_now(row)
                now = await queries.get(post.db, *row.key)
                assert now is not None
                _print([now], as_json)
                if wish.action == "dispute" and (fee_is_due(now) or now.fee_order):
                    say(await _fee_paid(post, now))
        except PostBusy:
            _check(row, wish)
            await _tell(settings, signer, row, wish)


def _check(row: EscrowRow, wish: Wishes) -> None:
    """Refuse here what the running post would refuse, where nobody would see it."""
    now = SystemClock().now()
    if (
        decide(row.role, row.stage, _MEANS[wish.action], row.terms, now=now, delivered_at=row.delivered_at)
        is None
    ):
        raise _not_now(row)
    if wish.provider_sat > row.terms.price_sat:
        raise TradepostError(f"award 0 … {row.terms.price_sat} sat, the price, to the provider")


def _not_now(row: EscrowRow) -> TradepostError:
    return TradepostError(
        f"the escrow is {row.stage}: that is not possible any more, or not yet; `tradepost escrow show "
        f"{row.request_id[:12]}` tells its deadlines"
    )


async def _fee_paid(post: Post, row: EscrowRow) -> str:
    """Stay until the arbiter has its fee, for it hears nothing before; tells what became of it."""
    fee = f"the arbiter's fee of {row.terms.arbiter_fee_sat} sat"
    for _ in range(FEE_SECONDS_MAX * FEE_LOOKS_PER_SECOND):
        now = await queries.get(post.db, *row.key)
        order = await get_order(post.db, now.fee_order) if now and now.fee_order else None
        if order is not None and order.state not in (OrderState.REQUESTED, OrderState.PAYING):
            if order.state in (OrderState.PAID, OrderState.DONE):
                return f"{fee} is paid"
            again = (
                f"tradepost ask {encode_npub(order.provider)} {row.request_id} --kind {ARBITRATION} "
                f"--max-sat {row.terms.arbiter_fee_sat} --private"
            )
            return f"[yellow]{fee} is not paid: {quoted(order.reason)}. It hears nothing before; pay with `{again}`[/]"
        await post.clock.sleep(1 / FEE_LOOKS_PER_SECOND)
    return f"[yellow]{fee} is not paid yet, and it hears nothing before: keep `tradepost settle` running[/]"


@asynccontextmanager
async def _desk(settings: Settings, post: Post, signer: Signer, role: Role) -> AsyncIterator[EscrowDesk]:
    if role is Role.CUSTOMER:
        async with open_customer(settings, post, signer) as customer:
            yield customer.desk
        return
    desk = (
        Arbiter(post, signer)
        if role is Role.ARBITER
        else ProviderDesk(post, signer, ProviderLimits(), _nothing)
    )
    try:
        yield desk
    finally:
        await desk.stop()


async def _nothing(_request_id: str) -> None:
    """No job is offered from here."""


async def _tell(settings: Settings, signer: Signer, row: EscrowRow, wish: Wishes) -> None:
    now, me = SystemClock().now(), signer.public_key
    event = await wrap(signer, me, write_message(wish, row.terms, me, now), now=now)
    async with RelayPool(
        settings.relays, clock=SystemClock(), allow_private=settings.allow_private_relays
    ) as pool:
        pool.add_signer(signer)
        answers = await pool.publish(event)
    if not any(answer.accepted for answer in answers.values()):
        raise TradepostError(
            "the post is open in another process, and no relay took the message for it; try again"
        )
    say("the post is open in another process, which was told; `tradepost escrow list` shows what it does")


def _key_of(settings: Settings, row: EscrowRow) -> Key:
    """The key of the party whose escrow it is."""
    for path in sorted((settings.data / "keys").glob("*.nsec")):
        key = find_key(settings, path.stem)
        if getattr(key.value, "public_key", None) == row.party:
            return key
    raise TradepostError(f"the key of {encode_npub(row.party)} is not on this post")


async def _one(prefix: str, role: Role) -> EscrowRow:
    rows = [row for row in await _find(prefix) if row.role is role]
    if len(rows) != 1:
        raise TradepostError(
            f"{len(rows)} escrows of this post as {role} begin with {prefix[:64]!r}; `tradepost escrow list` shows all"
        )
    return rows[0]


async def _find(prefix: str) -> list[EscrowRow]:
    async with await open_database(Settings.load()) as db:
        rows = await queries.find(db, prefix.lower())
    if not rows:
        raise TradepostError(f"no escrow begins with {prefix[:64]!r}; `tradepost escrow list` shows all")
    return rows


async def _newest(limit: int) -> list[EscrowRow]:
    async with await open_database(Settings.load()) as db:
        return await queries.newest(db, limit)


def _print(rows: Sequence[EscrowRow], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(_plain(row))
        return
    if not rows:
        say("[dim]nothing is or was in escrow here[/]")
        return
    table = Table("id", "as", "stage", "sat", "next", "fee", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for row in rows:
        due = local_time(row.wake_at)[5:16] if row.wake_at and not row.stage.is_final else ""
        table.add_row(row.request_id[:12], row.role, row.stage, str(row.terms.price_sat), due, _fee(row))
    print_table(table)


def _fee(row: EscrowRow) -> str:
    """What a dispute costs, or cost."""
    fee_sat = row.terms.arbiter_fee_sat
    if not fee_sat or row.role is Role.PROVIDER:
        return f"{fee_sat} sat" if fee_sat else ""
    done, not_done = ("paid", "not paid") if row.role is Role.ARBITER else ("ordered", "if disputed")
    return f"{fee_sat} sat, {done if row.fee_order else not_done}"


def _plain(row: EscrowRow) -> dict[str, Any]:
    """An escrow as programs see it: no coins, no signatures."""
    return {
        "id": row.request_id, "role": row.role, "stage": row.stage, "method": row.terms.method,
        "price_sat": row.terms.price_sat, "mint": row.terms.mint, "deliver_by": row.terms.deliver_by,
        "locktime": row.terms.locktime, "provider": row.terms.provider, "customer": row.terms.customer,
        "arbiter": row.terms.arbiter, "arbiter_fee_sat": row.terms.arbiter_fee_sat, "fee_order": row.fee_order,
        "received_sat": row.amount_sat, "reason": row.reason,
        "next_at": None if row.stage.is_final else row.wake_at, "created_at": row.created_at,
    }  # fmt: skip


def _print_details(row: EscrowRow) -> None:
    terms = row.terms
    pairs = {
        "job": row.request_id,
        "as": row.role,
        "stage": f"{row.stage}{': ' + row.reason if row.reason else ''}",
        "provider": encode_npub(terms.provider),
        "customer": encode_npub(terms.customer),
        "arbiter": encode_npub(terms.arbiter) if terms.arbiter else "",
        "fee": _fee(row) + (f" by job {row.fee_order[:12]}" if row.fee_order else ""),
        "price": f"{terms.price_sat} sat at {terms.mint}",
        "received": f"{row.amount_sat} sat" if row.amount_sat else "",
        "deliver by": local_time(terms.deliver_by),
        "delivered": local_time(row.delivered_at) if row.delivered_at else "",
        "review": f"{terms.review_seconds} s after that",
        "locked until": local_time(terms.locktime),
        "said": "\n".join(f"{one['by']}: {one['text']}" for one in row.statements),
    }
    print_pairs((name, quoted(value)) for name, value in pairs.items() if value)
    if row.stage is Stage.DISPUTED and row.role is Role.ARBITER:
        command = f"tradepost escrow rule {row.request_id[:12]} --provider SAT"
        say(f"[yellow]rule before {local_time(terms.claim_until)}: `{command}`[/]")
