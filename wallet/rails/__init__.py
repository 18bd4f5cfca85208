"""Lightning behind one seam: the mint as gateway, a wallet by NWC, a simulated one in `tradepost.testing`."""

from wallet.queries_rails import InvoiceState, OwnInvoice, Payment, SendState
from wallet.rails.lightning import Lightning
from wallet.rails.mint import MintRail
from wallet.rails.nwc import NwcRail
from wallet.rails.nwc_wire import NwcUri, parse_uri
from wallet.rails.rail import Made, Rail, RailLimits, Seen, Sent, Verdict, Wish

__all__ = [
    "InvoiceState",
    "Lightning",
    "Made",
    "MintRail",
    "NwcRail",
    "NwcUri",
    "OwnInvoice",
    "Payment",
    "Rail",
    "RailLimits",
    "Seen",
    "SendState",
    "Sent",
    "Verdict",
    "Wish",
    "parse_uri",
]
