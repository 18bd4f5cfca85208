"""Where swept sats go: what stands behind a Lightning address or an LNURL makes the invoices."""

from relay_bridge import Fetcher
from tradepost.settings import Settings
from wallet.errors import LimitExceeded
from wallet.lnurl_client import LnurlClient
from wallet.sweep import GetInvoice


def invoices_of(target: str, fetcher: Fetcher, settings: Settings) -> GetInvoice:
    """Invoices of a Lightning address or LNURL; over less than asked for where its service takes no more at once.

    What it returns raises `LimitExceeded` for less than the service takes, and as `LnurlClient` says.
    """
    client = LnurlClient(fetcher, allow_private=settings.allow_private_urls)

    async def get_invoice(sat: int) -> str:
        request = await client.pay_request(target)
        most_sat = request.max_msat // 1000
        if min(sat, most_sat) * 1000 < request.min_msat:
            raise LimitExceeded(
                f"{target} takes {-(-request.min_msat // 1000)} sat at least, {sat} are to be swept"
            )
        return (await client.invoice(request, 1000 * min(sat, most_sat))).bolt11

    return get_invoice
