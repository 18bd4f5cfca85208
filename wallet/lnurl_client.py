"""Asking LNURL services: an invoice over an exact amount, whether it is settled, a withdrawal to our wallet.

All URLs are fetched by the guarded fetcher: public hosts only (unless it was made for one's own network), no other host
than the one asked, limits on size and time.
"""

from collections.abc import Mapping
from typing import Final

import orjson

from relay_bridge import Fetcher, FetchFailed
from wallet.errors import InvalidLnurl, LimitExceeded, LnurlUnavailable
from wallet.lnurl import (
    Payable,
    PayRequest,
    Verification,
    WithdrawRequest,
    parse_ok,
    parse_pay_request,
    parse_payable,
    parse_verification,
    parse_withdraw_request,
    with_query,
)
from wallet.lnurl_text import parse_lnurl

ANSWER_BYTES_MAX: Final = 262_144
SECONDS_MAX: Final = 15.0
CALLBACK_SECONDS_MAX: Final = 60.0  # some services pay out before they answer


class LnurlClient:
    """Asks LNURL services. `allow_private` as the fetcher was made: http and one's own network are taken too.

    Every method raises `LnurlUnavailable`, `LnurlRefused` and `InvalidLnurl`; nothing is paid here.
    """

    def __init__(self, fetcher: Fetcher, *, allow_private: bool = False) -> None:
        self._fetcher = fetcher
        self._allow_private = allow_private

    async def pay_request(self, text: str) -> PayRequest:
        """What the service behind an LNURL or a Lightning address takes."""
        url = parse_lnurl(text, allow_private=self._allow_private)
        return parse_pay_request(await self._get(url, SECONDS_MAX), allow_private=self._allow_private)

    async def invoice(
        self,
        request: PayRequest,
        amount_msat: int,
        *,
        comment: str = "",
        payer_data: Mapping[str, str] | None = None,
    ) -> Payable:
        """An invoice over exactly `amount_msat`, checked as `parse_payable` says.

        Raises `LimitExceeded` for an amount or a comment that the service does not take, before it is asked.
        """
        if not request.min_msat <= amount_msat <= request.max_msat:
            raise LimitExceeded(
                f"the service takes {request.min_msat} to {request.max_msat} msat, not {amount_msat}"
            )
        if len(comment) > request.comment_chars_max:
            allowed = (
                f"at most {request.comment_chars_max} characters" if request.comment_chars_max else "none"
            )
            raise LimitExceeded(f"a comment of {len(comment)} characters; the service takes {allowed}")
        payer = _payer(request, payer_data or {})
        values = {"amount": str(amount_msat)}
        values |= {"comment": comment} if comment else {}
        values |= {"payerdata": payer} if payer else {}
        answer = await self._get(with_query(request.callback, **values), CALLBACK_SECONDS_MAX)
        return parse_payable(
            answer, request, amount_msat, payer_data=payer, allow_private=self._allow_private
        )

    async def resolve(self, text: str, amount_msat: int, *, comment: str = "") -> Payable:
        """From an LNURL or a Lightning address to an invoice over exactly `amount_msat`."""
        return await self.invoice(await self.pay_request(text), amount_msat, comment=comment)

    async def verify(self, payable: Payable) -> Verification:
        """Whether an invoice is settled, by the service that made it (LUD-21)."""
        if payable.verify_url is None:
            raise InvalidLnurl("the service does not tell whether its invoices are settled")
        return parse_verification(await self._get(payable.verify_url, SECONDS_MAX), payable.bolt11)

    async def withdraw_request(self, text: str) -> WithdrawRequest:
        """What the service behind an LNURL pays out."""
        url = parse_lnurl(text, allow_private=self._allow_private)
        return parse_withdraw_request(await self._get(url, SECONDS_MAX), allow_private=self._allow_private)

    async def withdraw(self, request: WithdrawRequest, bolt11: str) -> None:
        """Ask for a payout to one of our invoices. The service has agreed when this returns; the sats come later."""
        url = with_query(request.callback, k1=request.k1, pr=bolt11)
        parse_ok(await self._get(url, CALLBACK_SECONDS_MAX))

    async def _get(self, url: str, seconds_max: float) -> str:
        try:
            found = await self._fetcher.answer(url, bytes_max=ANSWER_BYTES_MAX, seconds_max=seconds_max)
        except FetchFailed as error:
            raise LnurlUnavailable(f"the LNURL service does not answer: {error}") from None
        return found.text


def _payer(request: PayRequest, told: Mapping[str, str]) -> str:
    """LUD-18's payer data as they are sent: no more than was asked for. Raises `InvalidLnurl` if more must be told."""
    missing = [name for name, must in request.payer_data.items() if must and name not in told]
    if missing:
        raise InvalidLnurl(f"the service wants to know your {', '.join(missing)[:80]}: not paid")
    shown = {name: told[name] for name in request.payer_data if name in told}
    return orjson.dumps(shown).decode() if shown else ""
