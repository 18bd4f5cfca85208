"""Operations on a caller's sats: see them, bring some, take them away. Custodial, and every answer says so."""

from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web

from tradepost.facade.desk import Desk
from tradepost.facade.money import queries_transfers
from tradepost.facade.money.queries_transfers import DepositRow, PayoutRow
from tradepost.facade.money.withdrawals import Wish
from tradepost.facade.web.headers import json_response
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import NotValid
from wallet import encode_lnurl, encode_token
from wallet.invoice import INVOICE_CHARS_MAX
from wallet.queries_lnurl import Withdrawal
from wallet.token import TOKEN_CHARS_MAX

SHOWN_MAX: Final = 100
_AMOUNT_SAT_MAX: Final = 21 * 10**14

Amount = Annotated[int, msgspec.Meta(ge=1, le=_AMOUNT_SAT_MAX)]


class BalanceShown(msgspec.Struct, frozen=True):
    """Your sats at this post. `held_sat` are kept for jobs and withdrawals under way, and not part of `balance_sat`;
    `coming_sat` are on their way here; `cap_sat` are the most that are held for anybody.
    """

    balance_sat: int
    held_sat: int
    coming_sat: int
    cap_sat: int
    mints: tuple[str, ...]
    custodial: str


class InvoiceWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many sats you want to bring."""

    amount_sat: Amount


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Cashu token (cashuA… or cashuB…) of one of this post's mints."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=TOKEN_CHARS_MAX)]

    def __repr__(self) -> str:
        return "TokenWish(token=…)"


class DepositShown(msgspec.Struct, frozen=True):
    """Sats that you bring. `state`: open (on their way), done (`credited_sat` are in your balance; the rest of
    `amount_sat` the mint took as its fee), failed (nothing came: `reason`), expired (the invoice was not paid).

    `invoice` is to be paid until `expires_at`; `verify` tells whether it is settled (LUD-21).
    """

    id: str
    way: str
    state: str
    amount_sat: int
    credited_sat: int
    fee_sat: int
    invoice: str | None
    verify: str | None
    expires_at: int | None
    reason: str
    created_at: int
    balance_sat: int
    custodial: str


class WithdrawWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to take sats away: `ecash` (you get a token), `lightning` (to `to`: an invoice, a Lightning address or an
    LNURL), `lnurl` (you get an LNURL, and a Lightning wallet that scans it within an hour takes them).

    `amount_sat` arrive, and the fees come on top; without it all there is, less the fees.
    """

    way: Literal["ecash", "lightning", "lnurl"]
    to: Annotated[str, msgspec.Meta(max_length=INVOICE_CHARS_MAX)] = ""
    amount_sat: Amount | None = None


class WithdrawalShown(msgspec.Struct, frozen=True):
    """Sats that you take away. `state`: open (on their way; `held_sat` are kept for it), done, failed (nothing went,
    and the sats are back, less what the mint took as its fee: `reason`).

    `token` is your ecash, shown until somebody has claimed it; `lnurl` is good until `expires_at`. Both are as good as
    the sats.
    """

    id: str
    way: str
    state: str
    amount_sat: int
    held_sat: int
    fee_sat: int
    token: str | None
    lnurl: str | None
    expires_at: int | None
    reason: str
    created_at: int

    def __repr__(self) -> str:
        return f"WithdrawalShown(id={self.id!r}, token=…, lnurl=…)"


class Withdrawn(msgspec.Struct, frozen=True):
    """One withdrawal, and what is left."""

    withdrawal: WithdrawalShown
    balance_sat: int
    held_sat: int
    custodial: str


class Withdrawals(msgspec.Struct, frozen=True):
    """Your withdrawals, the newest first, without what is as good as sats: GET one for that."""

    withdrawals: list[WithdrawalShown]
    balance_sat: int
    held_sat: int
    custodial: str


async def get_balance(call: Call) -> BalanceShown:
    """What you have here."""
    desk, caller = call.desk, call.known
    balance = await desk.till.balance(caller.id)
    coming_sat = await queries_transfers.coming_sat(desk.post.db, caller.id, desk.post.clock.now())
    deposits = desk.till.deposits
    return BalanceShown(
        balance.balance_sat, balance.held_sat, coming_sat, deposits.cap_sat, desk.post.wallet.mints,
        desk.till.deposits.custodial,
    )  # fmt: skip


async def fund_by_lightning(call: Call) -> DepositShown:
    """Bring sats by Lightning. You get an invoice, and what is paid to it is in your balance a moment later."""
    wish: InvoiceWish = call.body
    client = call.desk.limits.client_of(call.request)
    found = await call.desk.till.deposits.ask(call.known, wish.amount_sat, client=client)
    return await _deposit(call, found.row)


async def fund_by_ecash(call: Call) -> DepositShown:
    """Bring sats as a Cashu token. The same token again is the same deposit: it is credited once."""
    wish: TokenWish = call.body
    return await _deposit(call, await call.desk.till.deposits.bring_token(call.known, wish.token))


async def get_deposit(call: Call) -> DepositShown:
    """One deposit as it stands; the mint is asked."""
    return await _deposit(call, await call.desk.till.deposits.find(call.known.id, call.part("id")))


async def withdraw(call: Call) -> web.Response:
    """Take sats away, at any time. Send an Idempotency-Key: the same again, after a lost answer, is the same one."""
    body: WithdrawWish = call.body
    if (body.way == "lightning") != bool(body.to):
        raise NotValid("`to` is for the way `lightning`: an invoice, a Lightning address or an LNURL")
    await _check_owner(call)
    key = call.idempotency_key  # marked, for the post has keys of its own
    wish = Wish(body.way, body.to, body.amount_sat, f"key:{key}" if key else "")
    known = await queries_transfers.payout(call.desk.post.db, wish.id(call.known.id))
    row = await call.desk.till.payouts.begin(call.known, wish)
    return json_response(await _withdrawn(call, row), 200 if known else 201)


async def list_withdrawals(call: Call) -> Withdrawals:
    """Your newest withdrawals."""
    await _check_owner(call)
    till = call.desk.till
    rows = await till.payouts.all_of(call.known.id, SHOWN_MAX)
    balance = await till.balance(call.known.id)
    shown = [_withdrawal(row) for row in rows]
    return Withdrawals(shown, balance.balance_sat, balance.held_sat, till.deposits.custodial)


async def get_withdrawal(call: Call) -> Withdrawn:
    """One withdrawal as it stands. Ecash is shown again for as long as nobody has claimed it."""
    await _check_owner(call)
    return await _withdrawn(call, await call.desk.till.payouts.find(call.known.id, call.part("id")))


async def _check_owner(call: Call) -> None:
    """Who sees ecash has it: also what another key of the account took out."""
    await call.desk.callers.check_owner(call.desk.post.db, call.known)


async def _deposit(call: Call, row: DepositRow) -> DepositShown:
    deposits = call.desk.till.deposits
    balance = await call.desk.till.balance(call.known.id)
    invoice = await deposits.invoice(row) if row.quote_id else None
    return DepositShown(
        id=row.id, way=row.way, state=row.state, amount_sat=row.amount_sat, credited_sat=row.credited_sat,
        fee_sat=row.amount_sat - row.credited_sat if row.credited_sat else 0,
        invoice=invoice.bolt11 if invoice else None, verify=invoice.verify_url if invoice else None,
        expires_at=row.expires_at, reason=row.reason, created_at=row.created_at, balance_sat=balance.balance_sat,
        custodial=call.desk.till.deposits.custodial,
    )  # fmt: skip


async def _withdrawn(call: Call, row: PayoutRow) -> Withdrawn:
    till = call.desk.till
    balance = await till.balance(call.known.id)
    token = await till.payouts.token(row)
    shown = _withdrawal(row, token=encode_token(token) if token else None, lnurl=await _lnurl(call.desk, row))
    return Withdrawn(shown, balance.balance_sat, balance.held_sat, till.deposits.custodial)


async def _lnurl(desk: Desk, row: PayoutRow) -> str | None:
    promised = await desk.till.payouts.promised(row)
    if promised is None or promised.state is not Withdrawal.OPEN:
        return None
    return encode_lnurl(f"{desk.url}/lnurl/withdraw/{promised.k1}")


def _withdrawal(row: PayoutRow, *, token: str | None = None, lnurl: str | None = None) -> WithdrawalShown:
    return WithdrawalShown(
        id=row.id, way=row.way, state=row.state, amount_sat=row.amount_sat, held_sat=row.held_sat,
        fee_sat=row.fee_sat, token=token, lnurl=lnurl, expires_at=row.expires_at, reason=row.reason,
        created_at=row.created_at,
    )  # fmt: skip


_DEPOSIT_PROBLEMS: Final = ("custody_full", "no_mint", "mint_full", "mint_unavailable", "mint_error")
_TAKING_PROBLEMS: Final = (
    "balance_too_low", "too_few_coins", "idempotency_key_reused", "conflict", "forbidden", "invalid_request",
    "invalid_lnurl", "lnurl_refused", "lnurl_unavailable", "limit_exceeded", "mint_unavailable", "mint_error",
)  # fmt: skip

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="get_balance", method="GET", path="/v1/balance", about=get_balance.__doc__ or "", handler=get_balance,
        answer=BalanceShown, who=Who.CALLER, group="Balance",
    ),
    Operation(
        name="fund_by_lightning", method="POST", path="/v1/balance/invoices", about=fund_by_lightning.__doc__ or "",
        handler=fund_by_lightning, answer=DepositShown, body=InvoiceWish, status=201, who=Who.CALLER, costly=True,
        problems=_DEPOSIT_PROBLEMS, group="Balance",
    ),
    Operation(
        name="fund_by_ecash", method="POST", path="/v1/balance/tokens", about=fund_by_ecash.__doc__ or "",
        handler=fund_by_ecash, answer=DepositShown, body=TokenWish, status=201, who=Who.CALLER, costly=True,
        problems=(
            *_DEPOSIT_PROBLEMS, "invalid_token", "invalid_proof", "invalid_keyset", "limit_exceeded", "unknown_mint",
            "already_spent", "wrong_lock", "not_taken", "conflict", "mint_away",
        ),
        group="Balance",
    ),
    Operation(
        name="get_deposit", method="GET", path="/v1/balance/deposits/{id}", about=get_deposit.__doc__ or "",
        handler=get_deposit, answer=DepositShown, who=Who.CALLER, costly=True, problems=("not_found",),
        parts=(("id", "the id of a deposit"),), group="Balance",
    ),
    Operation(
        name="withdraw", method="POST", path="/v1/balance/withdrawals", about=withdraw.__doc__ or "",
        handler=withdraw, answer=Withdrawn, body=WithdrawWish, status=201, who=Who.CALLER, costly=True, once=True,
        problems=_TAKING_PROBLEMS, group="Balance",
    ),
    Operation(
        name="list_withdrawals", method="GET", path="/v1/balance/withdrawals", about=list_withdrawals.__doc__ or "",
        handler=list_withdrawals, answer=Withdrawals, who=Who.CALLER, group="Balance",
    ),
    Operation(
        name="get_withdrawal", method="GET", path="/v1/balance/withdrawals/{id}", about=get_withdrawal.__doc__ or "",
        handler=get_withdrawal, answer=Withdrawn, who=Who.CALLER, costly=True, problems=("not_found", "forbidden"),
        parts=(("id", "the id of a withdrawal"),), group="Balance",
    ),
)  # fmt: skip
