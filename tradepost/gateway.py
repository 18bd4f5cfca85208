"""The door for Lightning wallets: LNURL-pay, Lightning addresses, LNURL-withdraw, and jobs without Nostr or ecash.

Errors are `{"status": "ERROR", "reason": …}` with HTTP 200, as wallets expect them (LUD-01). A NUT-04 quote cannot set
the description hash that LUD-06 wants in the invoice, so strict wallets refuse our LNURLs: plain BOLT-11 comes first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web

import wallet.queries
from dvm import DvmError, Post
from tradepost.errors import GatewayRefused
from tradepost.facade.callers.limits import Limits
from tradepost.facade.money.deposits import UNPAID_INVOICES_MAX
from tradepost.facade.web.app import Route
from tradepost.facade.web.headers import json_response
from tradepost.facade.web.problems import TooManyRequests
from tradepost.lightning_orders import KEEP, LightningOrders, find_order
from tradepost.settings import Settings
from wallet import (
    InvalidLnurl,
    InvalidRequest,
    LimitExceeded,
    LnurlRefused,
    LnurlUnavailable,
    MintError,
    MintUnavailable,
    State,
    WalletError,
    encode_lnurl,
)
from wallet import queries_lnurl as queries
from wallet.invoice import INVOICE_CHARS_MAX, parse_invoice
from wallet.lnurl import Payable, PayRequest, SuccessAction, Verification, WithdrawRequest, make_metadata
from wallet.queries_lnurl import InvoiceRow, LightningOrder, Withdrawal

COMMENT_CHARS_MAX: Final = 280
PAYER_CHARS_MAX: Final = 1024
CLAIM_SECONDS: Final = 2.0
CLAIM_FOR_SECONDS: Final = 3600  # then `Wallet.recover` goes on asking, once a minute
PAYER_FIELDS: Final = {"name": False, "identifier": False, "pubkey": False}
#: Errors whose words are for strangers; others may tell what our wallet holds.
_TOLD: Final = (
    GatewayRefused, DvmError, InvalidLnurl, InvalidRequest, LimitExceeded, LnurlRefused, LnurlUnavailable,
    TooManyRequests,
)  # fmt: skip

log = structlog.get_logger(__name__)
Ask = Callable[[web.Request], Awaitable[dict[str, Any]]]


class OrderWish(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /orders` takes. `refund_to`: a Lightning address or LNURL for what is left; else by LNURL-withdraw."""

    agent: str
    kind: int
    text: str
    max_sat: int
    refund_to: str = ""
    params: dict[str, str] = {}


class Gateway:
    """Serves one post's wallet under `settings.gateway_url`. Use `open_gateway`."""

    def __init__(
        self,
        settings: Settings,
        post: Post,
        orders: LightningOrders,
        limits: Limits,
        *,
        url: str,
        names: Collection[str],
    ) -> None:
        self.url = url
        self.names = tuple(names)
        self.orders = orders
        self._post = post
        self._settings = settings
        self._limits = limits

    @property
    def routes(self) -> list[Route]:
        """What Lightning wallets are served."""
        asked = (
            ("lnurl_name", "GET", "/.well-known/lnurlp/{name}", self._pay_name),
            ("lnurl_tip", "GET", "/lnurl/tip/{name}", self._pay_name_callback),
            ("lnurl_order", "GET", "/lnurl/order/{hash}", self._pay_order),
            ("lnurl_pay_order", "GET", "/lnurl/order/{hash}/pay", self._pay_order_callback),
            ("lnurl_verify", "GET", "/lnurl/verify/{hash}", self._verify),
            ("lnurl_withdraw", "GET", "/lnurl/withdraw/{k1}", self._withdraw),
            ("lnurl_payout", "GET", "/lnurl/payout", self._withdraw_callback),
            ("order_state", "GET", "/orders/{order}", self._order_state),
            ("order", "POST", "/orders", self._order),
        )
        return [Route(name, method, path, partial(self._answer, ask)) for name, method, path, ask in asked]

    async def claim_for_ever(self) -> None:
        """Turn paid invoices into coins soon after they are paid; those of orders are watched by their orders."""
        while True:
            since = self._post.clock.now() - CLAIM_FOR_SECONDS
            for quote_id in (await queries.open_invoices(self._post.db, since=since))[:50]:
                try:
                    await self._post.wallet.claim(quote_id)
                except WalletError as error:
                    log.info("claim_later", reason=str(error))
                except Exception:  # a full disk, say; the next round tries again
                    log.exception("claim_failed")
            await self._post.clock.sleep(CLAIM_SECONDS)

    # LNURL-pay: Lightning addresses -----------------------------------------------------------------------------------

    async def _pay_name(self, request: web.Request) -> dict[str, Any]:
        name = self._name(request)
        address = f"{name}@{urlsplit(self.url).netloc}"
        return PayRequest(
            f"{self.url}/lnurl/tip/{name}", 1000, 1000 * self._settings.tip_sat_max,
            make_metadata(f"Sats for {address}", address=address), COMMENT_CHARS_MAX, PAYER_FIELDS,
        ).to_json()  # fmt: skip

    async def _pay_name_callback(self, request: web.Request) -> dict[str, Any]:
        name, sat = self._name(request), _sat(request)
        if not 1 <= sat <= self._settings.tip_sat_max:
            raise GatewayRefused(f"the amount must be 1 to {self._settings.tip_sat_max} sat")
        comment, payer = request.query.get("comment", ""), request.query.get("payerdata", "")
        if len(comment) > COMMENT_CHARS_MAX:
            raise GatewayRefused(f"the comment has more than {COMMENT_CHARS_MAX} characters")
        _check_payer(payer)
        self._limits.count(None, request, costly=True)
        now = self._post.clock.now()
        if (
            len(await queries.open_invoices(self._post.db, since=now - CLAIM_FOR_SECONDS))
            >= UNPAID_INVOICES_MAX
        ):
            raise GatewayRefused("too many invoices are unpaid here; try again later")
        quote = await self._post.wallet.mint_quote(self._mint(), sat)
        payment_hash = parse_invoice(quote.bolt11).payment_hash
        async with self._post.db.transaction() as tx:
            await queries.insert_invoice(tx, InvoiceRow(payment_hash, quote.id, name, comment, payer, now))
        return self._payable(quote.bolt11, sat, payment_hash, f"{name} thanks you").to_json()

    # LNURL-pay: an order ----------------------------------------------------------------------------------------------

    async def _pay_order(self, request: web.Request) -> dict[str, Any]:
        row = await self._order_of_invoice(request)
        amount_msat = 1000 * row.amount_sat
        url = f"{self.url}/lnurl/order/{row.payment_hash}/pay"
        about = f"A job of kind {row.kind} for at most {row.max_sat} sat"
        return PayRequest(url, amount_msat, amount_msat, make_metadata(about)).to_json()

    async def _pay_order_callback(self, request: web.Request) -> dict[str, Any]:
        row = await self._order_of_invoice(request)
        if _sat(request) != row.amount_sat:
            raise GatewayRefused(f"this order costs exactly {row.amount_sat} sat")
        message = "Paid. The job is asked for now; look where you ordered it."
        return self._payable(row.bolt11, row.amount_sat, row.payment_hash, message).to_json()

    async def _verify(self, request: web.Request) -> dict[str, Any]:
        """By our own coins: settled is what the mint has turned into ecash of ours. NUT-04 tells no preimage."""
        row = await queries.invoice(self._post.db, request.match_info["hash"])
        found = await wallet.queries.quote(self._post.db, row.quote_id) if row else None
        if found is None:
            raise GatewayRefused("Not found")
        quote, op_id = found
        outcome = await self._post.wallet.outcome(op_id)
        return Verification(quote.bolt11, outcome is not None and outcome.state is State.DONE).to_json()

    # LNURL-withdraw ---------------------------------------------------------------------------------------------------

    async def _withdraw(self, request: web.Request) -> dict[str, Any]:
        row = await self.orders.withdrawals.find(request.match_info["k1"])
        if row.state is not Withdrawal.OPEN:
            raise GatewayRefused("this was withdrawn already, or is on its way")
        amount_msat = 1000 * row.pay_sat
        return WithdrawRequest(
            f"{self.url}/lnurl/payout", row.k1, amount_msat, amount_msat, row.description
        ).to_json()

    async def _withdraw_callback(self, request: web.Request) -> dict[str, Any]:
        k1, bolt11 = request.query.get("k1", ""), request.query.get("pr", "")
        if len(bolt11) > INVOICE_CHARS_MAX:
            raise GatewayRefused("that is no invoice")
        await self.orders.withdrawals.find(k1)
        self._limits.count(None, request, costly=True, brings_sats=True)
        await self.orders.withdrawals.begin(k1, bolt11)
        self.orders.finish_payout(k1)
        return {"status": "OK"}

    # Orders -----------------------------------------------------------------------------------------------------------

    async def _order(self, request: web.Request) -> dict[str, Any]:
        try:
            wish = msgspec.json.decode(await request.read(), type=OrderWish)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GatewayRefused(f"not an order: {str(error)[:200]}") from None
        self._limits.count(None, request, costly=True)
        row = await self.orders.create(
            wish.agent, wish.text, kind=wish.kind, max_sat=wish.max_sat, params=wish.params,
            refund_to=wish.refund_to,
        )  # fmt: skip
        return await self.shown(row)

    async def _order_state(self, request: web.Request) -> dict[str, Any]:
        return await self.shown(await find_order(self._post, request.match_info["order"]))

    async def shown(self, row: LightningOrder) -> dict[str, Any]:
        """An order as its owner may see it, who knows its id; the bolt11 stands before the LNURL."""
        told = {
            "status": "OK", "order": row.id, "state": row.state, "amount_sat": row.amount_sat,
            "bolt11": row.bolt11, "lnurl": self.order_lnurl(row), "custodial": custody(row, self.orders.cap_sat),
            "job": row.job_id, "result": await self.orders.result(row), "reason": row.reason, "refund": None,
        }  # fmt: skip
        if row.k1 and (left := await queries.withdrawal(self._post.db, row.k1)):
            lnurl = self.withdraw_lnurl(row.k1) if left.state is Withdrawal.OPEN else None
            told["refund"] = {
                "state": left.state,
                "amount_sat": left.pay_sat,
                "lnurl": lnurl,
                "to": row.refund_to,
            }
        return told

    def order_lnurl(self, row: LightningOrder) -> str:
        """The LNURL that pays an order."""
        return encode_lnurl(f"{self.url}/lnurl/order/{row.payment_hash}")

    def withdraw_lnurl(self, k1: str) -> str:
        """The LNURL that withdraws; as good as the sats."""
        return encode_lnurl(f"{self.url}/lnurl/withdraw/{k1}")

    # Common to all ----------------------------------------------------------------------------------------------------

    async def _answer(self, ask: Ask, request: web.Request) -> web.Response:
        status = 200
        try:
            self._limits.count(None, request)
            told = await ask(request)
        except web.HTTPException as error:  # a body that is too large
            status, told = error.status, _error(error.reason)
        except _TOLD as error:
            told = _error(str(error))
        except (MintUnavailable, MintError) as error:
            log.warning("gateway_mint_away", reason=str(error))
            told = _error("the mint behind this gateway does not answer; try again later")
        except WalletError as error:  # too few coins, too many: nothing for strangers' eyes
            log.warning("gateway_wallet_refuses", reason=str(error))
            told = _error("this gateway cannot do that now; try again later")
        except Exception:
            log.exception("gateway_failed", route=request.path.split("/")[1:3])
            told = _error("this gateway cannot do that now; try again later")
        return json_response(told, status)

    def _name(self, request: web.Request) -> str:
        name = request.match_info["name"].lower()
        if name not in self.names:
            raise GatewayRefused("nobody of that name takes payments here")
        return name

    def _mint(self) -> str:
        if not self._post.wallet.mints:
            raise GatewayRefused("no mint is configured here, so no invoice can be made")
        return self._post.wallet.mints[0]

    async def _order_of_invoice(self, request: web.Request) -> LightningOrder:
        """Paid or not: there is one invoice for an order, and it is paid once."""
        row = await queries.order_of_invoice(self._post.db, request.match_info["hash"])
        if row is None:
            raise GatewayRefused("there is no such order here")
        return row

    def _payable(self, bolt11: str, sat: int, payment_hash: str, message: str) -> Payable:
        verify_url = f"{self.url}/lnurl/verify/{payment_hash}"
        return Payable(bolt11, 1000 * sat, success=SuccessAction(message), verify_url=verify_url)


def custody(row: LightningOrder, cap_sat: int) -> str:
    """What somebody must know before paying: who holds the sats until when, how much at most, where the rest goes."""
    if row.refund_to == KEEP:
        rest = "stays in the wallet of this post"
    else:
        rest = f"goes to {row.refund_to}" if row.refund_to else "is shown to you as an LNURL to withdraw"
        rest += ", less the fee of paying it out"
    return (
        f"Custodial: until the ecash is locked to the job, this post and the mint {row.mint} hold your "
        f"{row.amount_sat} sat; {cap_sat} sat are the most they hold for anybody. What the job does not cost (all "
        f"of it if no result comes) {rest}."
    )


@asynccontextmanager
async def open_gateway(
    settings: Settings, post: Post, orders: LightningOrders, limits: Limits, *, names: Collection[str] = ()
) -> AsyncIterator[Gateway]:
    """The gateway, whose paid invoices are claimed while the context lasts; whoever opens it serves its `app`.

    `orders` is started already.
    """
    names = (*settings.gateway_names, *names)
    gateway = Gateway(settings, post, orders, limits, url=settings.gateway_address, names=names)
    claiming = asyncio.create_task(gateway.claim_for_ever())
    try:
        yield gateway
    finally:
        claiming.cancel()
        await asyncio.wait([claiming])


def _error(reason: str) -> dict[str, str]:
    return {"status": "ERROR", "reason": reason}


def _sat(request: web.Request) -> int:
    """The amount asked for. Ecash is counted in whole sats."""
    text = request.query.get("amount", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) % 1000 == 0):
        raise GatewayRefused("the amount must be given in millisats, and be whole sats")
    return int(text) // 1000


def _check_payer(text: str) -> None:
    """LUD-18: a JSON object of texts. It is kept as it came."""
    try:
        told = msgspec.json.decode(text, type=dict[str, str | dict[str, str]]) if text else {}
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise GatewayRefused("payerdata is not a JSON object of texts") from None
    if len(text) > PAYER_CHARS_MAX or not told.keys() <= PAYER_FIELDS.keys() | {"email", "auth"}:
        raise GatewayRefused(
            f"payerdata may hold {', '.join(PAYER_FIELDS)}, {PAYER_CHARS_MAX} characters in all"
        )
