"""`tradepost ask`: hire an agent from the terminal."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec
import typer

from dvm import Customer, Guarantee, Order, OrderFailed, OrderState, Post, Update, queries
from dvm.discovery.announce import look_up
from dvm.errors import BadRequest
from dvm.escrow.parties import DELIVER_SECONDS_MIN
from dvm.kinds import kind_of
from dvm.nip90 import Input
from dvm.orders.asking import named_key
from dvm.orders.bolt11_purchases import is_by_invoice
from identity import EventTemplate, Npub
from identity.receipts import RATING_MAX
from tradepost.api import open_customer
from tradepost.cli.completing import complete_kind, complete_target
from tradepost.cli.escrow_words import fields
from tradepost.cli.inputs import More, Text, check_any, name_jobs, read_inputs
from tradepost.cli.lightning import LightningWish, ask_by_lightning
from tradepost.cli.output import AsJson, local_time, print_json, print_text, quoted, say
from tradepost.cli.qr import Wanted
from tradepost.cli.review import review_settled, show_review
from tradepost.cli.signing import Sec, WatchOnly, WouldSign, chosen_key, print_unsigned
from tradepost.cli.targets import WHICH_KIND, doubts, only_kind, unannounced
from tradepost.errors import TradepostError
from tradepost.post import open_post, reach
from tradepost.secrets import CUSTOMER, Key, open_signer
from tradepost.settings import POW_BITS_MAX, Settings
from wallet.escrow import Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="An agent (npub, hex or name), or what it does, like `summarisation`.",
        autocompletion=complete_target,
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="The kind of job, 5000–5999 or its name; needed unless TARGET is one, or an agent that does one only.",
        autocompletion=complete_kind,
    ),
]
Settle = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="How to pay: `escrow`, `reveal` (the agent works first and you buy the key of its sealed result),"
        " `prepaid` (ecash), `invoice` (Lightning, by `rails`), or `auto`: in escrow if you named arbiters, else"
        " prepaid, else by invoice.",
    ),
]

SECONDS_MAX: Final = 600
REFUND_SECONDS_MAX: Final = 15.0  # an honest agent's refund is here in a second or two
SOLD_SECONDS_MAX: Final = 3.0  # an honest agent takes the coins with the key that it told
#: What an agent may miss in a request to be paid by one method alone.
_HINTS: Final[dict[tuple[Method, ...], str]] = {
    (Method.ESCROW,): "for an escrow you and the agent need an arbiter and a mint in common",
    (
        Method.REVEAL,
    ): "an agent seals its results if it allows that (`reveal_msat_max`), and only for customers that "
    "have paid it before, by --settle escrow, say",
}
_ADVICE_POW: Final = (
    "say --pow with so many bits: the request then carries the work that is asked of new customers"
)
_NOT_BY_LIGHTNING: Final = {
    "review": "pay from this post's wallet to look first",
    "private": "the order is kept in clear",
    "or-others": "such an order has one agent",
    "pow": "its request is made once it is paid",
    "rate": "rate it by `tradepost review` once it is done",
    "input": "its input is one text",
    "settle": "it is paid from what the invoice brings",
    "seconds": "it waits as long as its agent may take",
}
_STYLES: Final = {
    "offer": "cyan",
    "paid": "green",
    "failed": "yellow",
    "refunded": "cyan",
    "result": "green",
    "exposed": "yellow",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(ask)


def ask(
    target: Target,
    text: Text = None,
    *,
    more: More = None,
    kind: Kind = "",
    max_sat: Annotated[
        int, typer.Option(metavar="SAT", min=0, help="The most you pay for it; 0 takes only free work.")
    ] = 0,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A parameter of the job; again for another, or for another value."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Encrypt the request, so that only the agent can read it.")
    ] = False,
    settle: Settle = "auto",
    review: Annotated[
        bool,
        typer.Option(
            "--review",
            help="Pay by escrow, and not before you have seen the result: `tradepost escrow accept`.",
        ),
    ] = False,
    seconds: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="How long to wait for the result.")
    ] = SECONDS_MAX,
    or_others: Annotated[
        bool,
        typer.Option("--or-others", help="If the agent named does not deliver, ask others of that kind."),
    ] = False,
    pow_bits: Annotated[
        int,
        typer.Option(
            "--pow",
            metavar="BITS",
            min=0,
            max=POW_BITS_MAX,
            help="Proof of work on the request, as some agents ask of new customers; 20 take some seconds.",
        ),
    ] = 0,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            metavar="RATING",
            min=1,
            max=RATING_MAX,
            help="Review the job at once: 1 … 5, see `tradepost review`.",
        ),
    ] = None,
    lightning: Annotated[
        bool, typer.Option("--lightning", help="Pay from a Lightning wallet: an invoice is shown first.")
    ] = False,
    refund_to: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="With --lightning: a Lightning address for what is left."),
    ] = "",
    qr: Wanted = None,
    sec: Sec = "",
    as_json: AsJson = False,
) -> None:
    """Ask an agent for work, pay for it, print the result.

    If you say what is to be done and not by whom, the next agent is asked when one gives no sign of life, refuses,
    fails or is late: its money is taken back first, and all of them together cost no more than --max-sat.

    Example: `tradepost ask summarisation @report.txt --max-sat 50`
    """
    number, inputs = _kind(kind, target), read_inputs(text, more or [])
    settings = Settings.load()
    key = chosen_key(settings, CUSTOMER, sec)
    if lightning or isinstance(key.value, Npub):
        number = _told(number)
    if number is not None:
        check_any(inputs, number)
    if lightning:
        asked = {
            "review": review, "private": private, "or-others": or_others, "pow": pow_bits > 0, "rate": rate is not None,
        }  # fmt: skip
        more_asked = {"input": bool(more), "settle": settle != "auto", "seconds": seconds != SECONDS_MAX}
        _check_lightning({**asked, **more_asked})
        wish = LightningWish(
            target,
            inputs[0].text if inputs else "",
            _told(number),
            max_sat,
            _params(param or []),
            refund_to,
            qr,
            as_json,
        )
        asyncio.run(ask_by_lightning(wish, settings, key))
        return
    wanted = _Wanted(
        target, inputs, number, max_sat, _params(param or []), private, seconds,
        _methods(settle, settings, private, review), settings.arbiters, review,
        or_others or not named_key(target), pow_bits, rate,
    )  # fmt: skip
    if review and rate is not None:
        raise TradepostError(
            "--review is to look first: rate by `tradepost review` what you accept or dispute"
        )
    if wanted.settle == (Method.ESCROW,) and seconds <= DELIVER_SECONDS_MIN:
        raise TradepostError(
            f"no agent works in escrow that has {seconds} s for it: say --seconds {2 * DELIVER_SECONDS_MIN} or more"
        )
    asyncio.run(_ask(wanted, settings, key, as_json))


def _check_lightning(asked: Mapping[str, bool]) -> None:
    """Refuse what was asked for and an order through Lightning cannot do."""
    for name, why_not in _NOT_BY_LIGHTNING.items():
        if asked[name]:
            raise TradepostError(f"--{name} and --lightning do not go together yet: {why_not}")


def _kind(kind: str, target: str) -> int | None:
    """The kind that is said; None if that is for the agent to say, whose key or name is the target."""
    named = named_key(target)
    try:
        return kind_of(kind or ("" if named else target))
    except BadRequest:
        if kind:
            raise
        return None


def _told(kind: int | None) -> int:
    """The kind, where no agent is asked for it."""
    if kind is None:
        raise TradepostError(WHICH_KIND)
    return kind


@dataclass(frozen=True)
class _Wanted:
    target: str
    inputs: tuple[Input, ...]
    kind: int | None  # None: the only one that the agent does
    max_sat: int
    params: dict[str, list[str]]
    private: bool
    seconds: int
    settle: tuple[Method, ...]
    arbiters: tuple[str, ...]
    review: bool
    others: bool  # whether the next agent is asked if one does not deliver
    pow_bits: int
    rate: int | None


async def _ask(wanted: _Wanted, settings: Settings, key: Key, as_json: bool) -> None:
    if isinstance(key.value, Npub):
        await _print_request(wanted, settings, key.value.public_key)
        return
    async with open_signer(settings, key) as signer, open_post(settings) as post:
        if unreachable := await reach(post.pool):
            raise TradepostError(
                f"{unreachable}; nothing was asked. Name others in tradepost.yaml or TRADEPOST_RELAYS"
            )
        wanted = await _completed(post, wanted, as_json)
        async with open_customer(settings, post, signer) as customer:
            order_id = ""
            asked = await (_hire(customer, wanted) if wanted.others else _publish(customer, wanted))
            try:
                order_id = await _watch(post, asked, wanted.seconds, as_json)
                content = await asked.result()
            except TimeoutError:
                raise TradepostError(await _unfinished(post, asked)) from None
            except asyncio.CancelledError:
                say(
                    "interrupted; the job goes on, and `tradepost settle` fetches its result or takes your sats back"
                )
                raise
            except OrderFailed as error:
                hint = _ADVICE_POW if "pow: " in str(error) else _HINTS.get(wanted.settle)
                if hint and not as_json and await customer.desk.get(order_id) is None:
                    say(f"[dim]{hint}[/]")
                raise
            if not as_json:
                print_text(content)
            if (escrow := await _escrow(customer, order_id)) is not None:
                _show_escrow(escrow, post.clock.now(), as_json)
            if wanted.rate is not None:
                show_review(await review_settled(customer, post, order_id, wanted.rate), as_json)


async def _completed(post: Post, wanted: _Wanted, as_json: bool) -> _Wanted:
    """With the kind and the jobs that it works on; says what speaks against the agent. Raises `TradepostError`."""
    kind = wanted.kind if wanted.kind is not None else await only_kind(post, wanted.target)
    inputs = await name_jobs(post, wanted.inputs)
    check_any(inputs, kind)
    wanted = replace(wanted, kind=kind, inputs=inputs)
    if (key := named_key(wanted.target)) is None:
        return wanted
    found = await look_up(post.pool, post.clock, key)
    told = doubts(found, kind, wanted.max_sat, post.clock.now(), others=wanted.others)
    if not found:
        told = [f"{unannounced(post)}; it has {wanted.seconds} s to answer"]
    for doubt in told:
        if as_json:
            print_json({"step": "doubt", "message": doubt})
        else:
            say(f"[yellow]{quoted(doubt)}[/]")
    serves = not found or any(kind in one.kinds for one in found)
    return wanted if serves else replace(wanted, target=str(kind))


async def _escrow(customer: Customer, order_id: str) -> EscrowRow | None:
    """The escrow of an order that has its result; one by whose key that was opened has soon ended, if we look on."""
    escrow = await customer.desk.get(order_id)
    if escrow is not None and escrow.terms.method is Method.REVEAL:
        with suppress(TimeoutError):
            await asyncio.wait_for(customer.desk.idle(), SOLD_SECONDS_MAX)
        escrow = await customer.desk.get(order_id)
    return escrow


def _show_escrow(escrow: EscrowRow, now: int, as_json: bool) -> None:
    """Say how to go on with what is not paid yet; to programs wherever it stands."""
    if as_json:
        print_json({"job": escrow.request_id, "step": "escrow", "escrow": fields(escrow, None, now)})
    elif escrow.stage is Stage.DELIVERED and escrow.wake_at is not None:
        short = escrow.request_id[:12]
        say(
            f"[yellow]{escrow.terms.price_sat} sat are locked, and not paid yet. `tradepost escrow accept {short}` "
            f"pays, `tradepost escrow dispute {short} --reason …` refuses; if you do neither, they are paid at "
            f"{local_time(escrow.wake_at)}[/]"
        )


def _methods(word: str, settings: Settings, private: bool, review: bool) -> tuple[Method, ...]:
    """The ways to pay that will do, the best first; for a `review` it is escrow alone, where it can wait for one."""
    can_escrow = bool(settings.arbiters) and not private
    if review and word in (Method.REVEAL, Method.PREPAID, Method.INVOICE):
        raise TradepostError(
            f"--review needs an escrow: by {word} the agent is paid before you see the result. Leave --review out, or "
            "say --settle escrow"
        )
    match word:
        case "auto" if review and private:
            raise TradepostError(
                "--review needs an escrow, and that cannot be private: the arbiter could not read what was asked. "
                "Leave out --review or --private"
            )
        case "auto" if review:
            return _methods(Method.ESCROW, settings, private, review)
        case "auto":
            # An invoice is paid only where the agent takes no ecash of ours.
            return (*((Method.ESCROW,) if can_escrow else ()), Method.PREPAID, Method.INVOICE)
        case Method.ESCROW if private:
            raise TradepostError(
                "an escrow cannot be private: the arbiter could not read what was asked. Leave --private out"
            )
        case Method.ESCROW if not settings.arbiters:
            raise TradepostError(
                "an escrow needs an arbiter that you trust: name its npub in tradepost.yaml (arbiters: […]) or in "
                "TRADEPOST_ARBITERS"
            )
        case Method.ESCROW | Method.REVEAL | Method.PREPAID | Method.INVOICE:
            return (Method(word),)
    raise TradepostError(f"--settle {word!r}: write escrow, reveal, prepaid, invoice or auto")


async def _publish(customer: Customer, wanted: _Wanted) -> Order:
    return await customer.ask(
        wanted.target, wanted.inputs, kind=_told(wanted.kind), max_sat=wanted.max_sat, params=wanted.params,
        private=wanted.private, seconds_max=wanted.seconds, settle=wanted.settle,
        arbiters=wanted.arbiters if Method.ESCROW in wanted.settle else (), review=wanted.review,
        pow_bits=wanted.pow_bits,
    )  # fmt: skip


async def _hire(customer: Customer, wanted: _Wanted) -> Guarantee:
    return await customer.hire(
        wanted.target, wanted.inputs, kind=_told(wanted.kind), max_sat=wanted.max_sat, params=wanted.params,
        private=wanted.private, seconds_max=wanted.seconds, settle=wanted.settle,
        arbiters=wanted.arbiters if Method.ESCROW in wanted.settle else (), review=wanted.review,
        pow_bits=wanted.pow_bits,
    )  # fmt: skip


async def _print_request(wanted: _Wanted, settings: Settings, public_key: str) -> None:
    """What would be published for an npub."""
    async with open_post(settings) as post:
        wanted = replace(wanted, inputs=await name_jobs(post, wanted.inputs))
        try:
            await _publish(Customer(WatchOnly(public_key), post), wanted)
        except WouldSign as unsigned:
            print_unsigned(public_key, _without_lock(unsigned.template))


def _without_lock(request: EventTemplate) -> EventTemplate:
    """The request less our one-job key: nobody here will remember the job, so nobody could take locked coins back."""
    return msgspec.structs.replace(request, tags=tuple(tag for tag in request.tags if tag[0] != "lock"))


async def _watch(post: Post, asked: Order | Guarantee, seconds: int, as_json: bool) -> str:
    """Show each update until it ends; returns the id of the last order.

    Raises `TimeoutError` when only a refund is left to wait for, or nothing. An order gives up by itself after
    `seconds`; the coins that it has locked may stay so for hours. A guarantee ends a moment after its time.
    """
    loop = asyncio.get_running_loop()
    refund_by: float | None = None
    order_id = ""
    async with asyncio.timeout(seconds + 2 * REFUND_SECONDS_MAX) as patience:
        if isinstance(asked, Order):
            order_id = asked.id
            _show_job(order_id, as_json)
        async for update in asked:
            if update.order_id not in ("", order_id):
                order_id = update.order_id
                _show_job(order_id, as_json)
            row = await queries.get_order(post.db, order_id) if update.step == "result" else None
            _show(order_id, update, row.confidence if row else None, as_json)
            is_refund = isinstance(asked, Order) and asked.state is OrderState.AWAITING_REFUND
            if is_refund and refund_by is None:
                refund_by = loop.time() + REFUND_SECONDS_MAX
                patience.reschedule(refund_by)
    return order_id


async def _unfinished(post: Post, asked: Order | Guarantee) -> str:
    """Where the money is, and how it comes back."""
    if isinstance(asked, Guarantee):
        return "nothing is decided yet: the key's holder or a mint does not answer. `tradepost settle` goes on with it"
    row = await queries.get_order(post.db, asked.id)
    assert row is not None
    if row.state is OrderState.AWAITING_REFUND and is_by_invoice(row):
        return (
            f"{row.reason}; {row.price_sat} sat were paid by Lightning, and only the agent can send them back: "
            "`tradepost settle` looks whether it did"
        )
    if row.state is OrderState.AWAITING_REFUND and row.locktime is not None:
        return (
            f"{row.reason}; {row.price_sat} sat are locked for the agent until {local_time(row.locktime)}. "
            "If it has not taken them by then, `tradepost settle` takes them back"
        )
    return f"job {row.id[:12]} is still {row.state}: the mint does not answer. `tradepost settle` goes on with it"


def _show_job(order_id: str, as_json: bool) -> None:
    if not as_json:
        say(f"[dim]job {order_id}[/]")


def _show(order_id: str, update: Update, confidence: float | None, as_json: bool) -> None:
    if as_json:
        line = {"job": order_id, "step": update.step, "message": update.message, "content": update.content}
        sure = {"confidence": confidence} if update.step == "result" else {}
        print_json({**line, "price_sat": update.price_sat, **sure})
    elif update.step != "error":  # errors are told once, by the exception
        sure_words = "" if confidence is None else f"; the agent is sure by {confidence:.2f}"
        shown = f"result: it is below{sure_words}" if update.step == "result" else str(update)
        say(f"[{_STYLES.get(update.step, 'dim')}]● {quoted(shown)}[/]")


def _params(pairs: list[str]) -> dict[str, list[str]]:
    params: dict[str, list[str]] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise TradepostError(f"--param {pair!r}: write it as name=value")
        params.setdefault(name, []).append(value)
    return params
