"""Limits of a provider: everything that comes from outside has one. Units are the last word of each name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProviderLimits:
    """Defaults fit an agent on a small machine; configuration may change each."""

    job_seconds_max: int = 600
    input_bytes_max: int = 256 * 1024  # of all inputs together, what was fetched included
    inputs_fetched_max: int = 8  # URLs and events of one job
    fetch_seconds_max: int = 20
    chain_seconds_max: int = 1200  # how long a job waits for the results of others that it is to work on
    chained_jobs_max: int = 100  # that wait so at one time
    result_bytes_max: int = (
        60_000  # in the event, escaped or encrypted: relays commonly refuse events above 64 KiB
    )
    reason_characters_max: int = 2000  # what an agent's function may say about why it failed
    queue_jobs_max: int = 1000  # no customer has more jobs waiting than there is room left (`jobs/room.py`)
    concurrent_jobs_max: int = 64
    customer_requests_per_minute_max: int = 600  # of one who has paid us, or is allowed
    stranger_requests_per_minute_max: int = 30  # of anybody else; 0: strangers' requests are refused
    strangers_requests_per_minute_max: int = 6000  # of all of them together
    stranger_pow_bits: int = 0  # of proof of work (NIP-13) on each request
    stranger_sat_min: int = 0  # what a job costs them at least, a free one too
    blocked: tuple[str, ...] = ()  # public keys that are ignored
    allowed: tuple[str, ...] = ()  # public keys that are no strangers
    offer_seconds: int = 900
    locktime_seconds: int = 3600
    locktime_margin_seconds: int = 120  # a payment must be redeemable at least this long before its locktime
    request_age_seconds_max: int = 86400
    request_future_seconds_max: int = 900
    payment_check_seconds_max: int = 1800  # how long an unreachable mint is asked about coins not yet taken
    change_sat_min: int = 1
    credit_msat_max: int = 0  # what a customer who has paid us before may owe us, and never more than it paid
    reveal_msat_max: int = (
        0  # what we do for a customer before it buys the sealed result, with the same bound; 0: none
    )
    reveal_seconds: int = 300  # how long a sealed result is for sale
    arbiters: tuple[str, ...] = ()  # public keys of those whose rulings we accept; none: no escrow is offered
    arrange_seconds: int = 20  # how long an arbiter's answer is waited for before an offer is made without it
    review_seconds: int = 600  # what a customer has to look at a result in escrow
    dispute_seconds: int = 86_400  # what an arbiter has to rule
    root_seconds: int = 300  # how long what is new in the log of receipts waits to be published
    fee_bps: int = (
        500  # the post's cut of what a job brought, in hundredths of a percent, taken at settlement
    )
