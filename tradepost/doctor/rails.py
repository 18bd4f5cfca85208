"""Check of the Lightning rails: can they be reached, what can they do, what is in them, what is not known."""

import asyncio
from typing import Final

from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.probes import MintFacts
from tradepost.doctor.setup import Setup
from tradepost.errors import ConfigError
from tradepost.rails import find_connection
from wallet import WalletError
from wallet.rails import NwcRail, RailLimits
from wallet.rails.mint import limits_of

RAIL_SECONDS_MAX: Final = 20.0


async def check_rails(setup: Setup) -> list[Finding]:
    """One line for each rail of the configuration."""
    findings = []
    for name in setup.settings.rails:
        if name == "mint":
            findings += judge_mint_rail(await setup.mints)
        else:
            findings.append(await _try_nwc(setup))
    return findings


def judge_mint_rail(facts: list[MintFacts]) -> list[Finding]:
    """What the mints can do as a gateway; whether they answer is told by their own check."""
    first = next(iter(facts), None)
    if first is None or first.info is None:
        return []
    return [_tell("mint", limits_of(first.info), f"{first.url} is the gateway")]


async def _try_nwc(setup: Setup) -> Finding:
    try:
        uri = find_connection(setup.settings)
    except ConfigError as error:
        return fail("rails", f"nwc: {error}")
    where = f"the wallet {uri.wallet_key[:12]}… at {', '.join(uri.relays)}"
    try:
        async with (
            asyncio.timeout(RAIL_SECONDS_MAX),
            NwcRail(uri, setup.clock, on_paid=lambda _: None) as rail,
        ):
            limits = await rail.limits()
            balance_sat = await rail.balance_msat() // 1000
    except (WalletError, TimeoutError) as error:
        return fail(
            "rails", f"nwc: {where}: {error or 'no answer'}", "check that the wallet runs, or connect it anew"
        )
    return _tell("nwc", limits, f"{where} holds {balance_sat} sat")


def _tell(name: str, limits: RailLimits, about: str) -> Finding:
    can = [what for what, able in (("makes", limits.makes), ("pays", limits.pays)) if able]
    cannot = [
        what
        for what, able in (
            ("fractions of a sat", limits.sub_sat),
            ("description hashes", limits.description_hash),
            ("a limit of fees", limits.fee_limit),
        )
        if not able
    ]
    said = f"{name}: {about}; it {' and '.join(can) or 'neither makes nor pays'} invoices"
    said += f", without {', '.join(cannot)}" if cannot else ""
    return (
        ok("rails", said) if len(can) == 2 else warn("rails", said, "name another rail beside it in `rails`")
    )
