"""`tradepost escrow accept` and the like: done here, or by the process that has the post open, which is told to.

It is told by a gift wrap to ourselves, and writes what became of that into the database (`dvm/queries_wishes.py`).
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Final

import typer

from dvm import Post, ProviderLimits
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from dvm.escrow.desk import EscrowDesk
from dvm.escrow.messages import Wishes, write_message
from dvm.escrow.parties import STATEMENT_BYTES_MAX, ProviderDesk, fee_is_due
from dvm.escrow.standing import possible
from dvm.queries_wishes import answer_of
from identity import Signer, encode_npub
from identity.nip59 import wrap
from relay_bridge import RelayPool
from store import Database, SystemClock
from tradepost.api import open_customer
from tradepost.cli.escrow_shown import Case, again, find_one, print_escrows
from tradepost.cli.escrow_words import fee_told, is_settled, is_unheard, pay_command, refusal
from tradepost.cli.output import AsJson, quoted, say
from tradepost.errors import PostBusy, TradepostError
from tradepost.post import limits_of, open_post, read_database
from tradepost.secrets import CUSTOMER, Key, find_key, open_signer
from tradepost.settings import ARBITER, Settings
from wallet.escrow import Role
from wallet.queries_escrows import EscrowRow

READ_SECONDS_MAX: Final = 10
ANSWER_SECONDS_MAX: Final = 30
FEE_SECONDS_MAX: Final = 30
LOOKS_PER_SECOND: Final = 5
EscrowId = Annotated[str, typer.Argument(metavar="ID", help="The id of the job, or the beginning of one.")]

#: The words of `Wishes` that are other ones here.
_WISHED: Final = {"refund": "give_back"}
#: Whose letters a running process reads only if it was told to be that, too.
_READS: Final = {
    Role.CUSTOMER: "`tradepost up` reads for a customer only with `gateway_url`: else stop it, then `tradepost settle`",
    Role.PROVIDER: "`tradepost up` reads only for the agents it runs: else stop it, then say this again",
    Role.ARBITER: "`tradepost up` reads for an arbiter only with `arbiter: true`: else stop it, then say this again",
}
#: Whose letters this command does not read.
_UNREAD: Final = {
    Role.PROVIDER: ". Letters to an agent are read by `tradepost up` alone: if one came since it ended, start it first"
}


def register(app: typer.Typer) -> None:
    """Add the commands to those of `tradepost escrow`."""
    app.command(epilog="Example: `tradepost escrow accept 2e98eae4846c`")(accept)
    app.command(epilog="Example: `tradepost escrow dispute 2e98eae4846c --reason 'the text is empty'`")(
        dispute
    )
    app.command(epilog="Example: `tradepost escrow answer 2e98eae4846c --text 'it has all 40 lines'`")(answer)
    app.command(epilog="Example: `tradepost escrow refund 2e98eae4846c`")(refund)
    app.command(epilog="Example: `tradepost escrow rule 2e98eae4846c --provider 10`")(rule)


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
    fee_sat = asyncio.run(find_one(escrow_id, Role.CUSTOMER)).row.terms.arbiter_fee_sat
    if fee_sat and not yes:
        if not sys.stdin.isatty():
            raise TradepostError(
                f"the arbiter takes {fee_sat} sat for hearing it; say --yes if you will pay that"
            )
        typer.confirm(f"The arbiter takes {fee_sat} sat for hearing it. Go on?", abort=True, err=True)
    asyncio.run(_wish(escrow_id, Role.CUSTOMER, Wishes("dispute", reason), as_json))


def answer(
    escrow_id: EscrowId,
    text: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; the customer and the arbiter read it, nobody else does.")
    ],
    as_json: AsJson = False,
) -> None:
    """As the provider, say in a dispute why the result is good."""
    asyncio.run(_wish(escrow_id, Role.PROVIDER, Wishes("answer", text), as_json))


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
    """Have it done, and show what came of it."""
    settings = Settings.load()
    row = (await find_one(escrow_id, role)).row
    _check_wish(row, wish)
    async with open_signer(settings, _key_of(settings, row)) as signer:
        try:
            async with (
                open_post(settings) as post,
                _desk(settings, post, signer, role) as (desk, has_read),
            ):
                if not has_read:
                    say(
                        f"[yellow]not all that others sent could be read in {READ_SECONDS_MAX} s; going on without[/]"
                    )
                _check_time(await again(post.db, row), wish, _UNREAD.get(role, ""))
                await desk.wish(row.request_id, wish)
                await _show(post.db, row, wish, as_json)
        except PostBusy:
            async with read_database(settings) as db:
                _check_time(await again(db, row), wish)
                await _tell(settings, db, signer, row, wish)
                await _show(db, row, wish, as_json)


def _check_wish(row: EscrowRow, wish: Wishes) -> None:
    """Refuse what no time would make possible."""
    if wish.provider_sat > row.terms.price_sat:
        raise TradepostError(
            f"the price is {row.terms.price_sat} sat: award 0 … {row.terms.price_sat} of them with --provider"
        )
    if len(wish.reason.encode()) > STATEMENT_BYTES_MAX:
        raise TradepostError(f"say it in {STATEMENT_BYTES_MAX} bytes at most, with a link to what is longer")


def _check_time(case: Case, wish: Wishes, more: str = "") -> None:
    """Refuse what is not possible as the escrow stands, with what is next instead."""
    now = SystemClock().now()
    if wish.action not in [_WISHED.get(action, action) for action in possible(case.row, now)]:
        action = "refund" if wish.action == "give_back" else wish.action
        raise TradepostError(refusal(case.row, action, case.fee, now) + more)


async def _show(db: Database, row: EscrowRow, wish: Wishes, as_json: bool) -> None:
    """Print the escrow; after a dispute that costs something once that is paid, or we have waited long enough."""
    case = await again(db, row)
    is_fee_due = wish.action == "dispute" and (fee_is_due(case.row) or case.row.fee_order is not None)
    for _ in range(FEE_SECONDS_MAX * LOOKS_PER_SECOND):
        if not is_fee_due or is_settled(case.fee):
            break
        await SystemClock().sleep(1 / LOOKS_PER_SECOND)
        case = await again(db, row)
    print_escrows([case], as_json=as_json)
    if is_fee_due:
        say(_fee_told(case))


def _fee_told(case: Case) -> str:
    told = f"the arbiter's fee: {quoted(fee_told(*case))}"
    if is_unheard(*case):
        return f"[yellow]{told}. It hears nothing before; pay with `{pay_command(*case)}`[/]"
    if not is_settled(case.fee):
        return f"[yellow]{told}. It hears nothing before: keep `tradepost settle` running[/]"
    return told


@asynccontextmanager
async def _desk(
    settings: Settings, post: Post, signer: Signer, role: Role
) -> AsyncIterator[tuple[EscrowDesk, bool]]:
    """The desk of that role, and whether it has read what others sent to it while nothing ran here."""
    if role is Role.CUSTOMER:
        async with open_customer(settings, post, signer) as customer:
            yield customer.desk, await customer.caught_up(READ_SECONDS_MAX)
        return
    if role is Role.PROVIDER:
        desk = ProviderDesk(post, signer, ProviderLimits(), arranged=_nothing, paid=lambda _customer: None)
        try:
            yield desk, True
        finally:
            await desk.stop()
        return
    limits = ArbiterLimits(fee_sat=settings.arbiter_fee_sat)
    if not settings.arbiter:  # any more: it ends what it has begun, and takes nothing new
        limits = replace(limits, price_sat_max=0)
    arbiter = Arbiter(post, signer, limits, job_limits=limits_of(settings, ARBITER))
    try:
        await arbiter.start()
        yield arbiter, await arbiter.caught_up(READ_SECONDS_MAX)
    finally:
        await arbiter.stop()


async def _nothing(_request_id: str) -> None:
    """No job is offered from here."""


async def _tell(settings: Settings, db: Database, signer: Signer, row: EscrowRow, wish: Wishes) -> None:
    """Have the process do it that has the post open. Raises `TradepostError` with its refusal, or if it is silent."""
    clock, me = SystemClock(), signer.public_key
    event = await wrap(signer, me, write_message(wish, row.terms, me, clock.now()), now=clock.now())
    async with RelayPool(settings.relays, clock=clock, allow_private=settings.allow_private_relays) as pool:
        pool.add_signer(signer)
        answers = await pool.publish(event)
    if not any(one.accepted for one in answers.values()):
        raise TradepostError(
            "the post is open in another process, and no relay took the letter that tells it; try again, or stop that "
            "process first"
        )
    for _ in range(ANSWER_SECONDS_MAX * LOOKS_PER_SECOND):
        refused = await answer_of(db, event.id)
        if refused:
            raise TradepostError(refused)
        if refused is not None:
            return
        await clock.sleep(1 / LOOKS_PER_SECOND)
    raise TradepostError(
        f"the process that has the post open was told, and did not answer in {ANSWER_SECONDS_MAX} s; it is done once "
        f"the post reads that. {_READS[row.role]}. `tradepost escrow show {row.request_id[:12]}` tells whether it was"
    )


def _key_of(settings: Settings, row: EscrowRow) -> Key:
    """The key of the party whose escrow it is."""
    for name in sorted(path.stem for path in (settings.data / "keys").glob("*.nsec")) or [CUSTOMER]:
        key = find_key(settings, name)
        if getattr(key.value, "public_key", None) == row.party:
            return key
    if (retired := settings.retired_key_file(row.party)).exists():
        return find_key(settings, CUSTOMER, f"@{retired}")
    raise TradepostError(
        f"the key of {encode_npub(row.party)}, the {row.role} of this escrow, is not on this post: give it in "
        "NOSTR_SECRET_KEY, or keep it here with `tradepost key import NAME`"
    )
