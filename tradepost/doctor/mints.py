"""Check of the mints: can they be reached, and can they do what our money needs."""

from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.probes import MintFacts
from tradepost.doctor.setup import Setup
from wallet.keyring import NEEDED_NUTS
from wallet.proofs import SAT


async def check_mints(setup: Setup) -> list[Finding]:
    """One line for each mint."""
    now = setup.clock.now()
    return [judge_mint(facts, now) for facts in await setup.mints]


def judge_mint(facts: MintFacts, now: int) -> Finding:
    """How one mint does."""
    if facts.info is None:
        mend = "wait until it is back; its sats are at it and nowhere else"
        return fail("mints", f"{facts.url}: {facts.error}", mend)
    missing = [f"{why} (NUT-{nut:02})" for nut, why in NEEDED_NUTS.items() if not facts.info.supports(nut)]
    if missing:
        return fail(
            "mints", f"{facts.url} cannot {', '.join(missing)}", "take it out of mints, and choose another"
        )
    usable = [k for k in facts.keysets if k.active and k.unit == SAT and not 0 < (k.final_expiry or 0) <= now]
    if not usable:
        return fail(
            "mints", f"{facts.url} has no active keyset in sat", "take it out of mints, and choose another"
        )
    fee_ppk = min(keyset.input_fee_ppk or 0 for keyset in usable)
    told = f"{facts.url} answers in {facts.seconds:.2f} s; {_name(facts)}, fee {fee_ppk / 1000:g} sat a coin"
    closed = [what for nut, what in ((4, "sells"), (5, "buys")) if _is_disabled(facts, nut)]
    if closed:
        return warn("mints", f"{told}; it {' and '.join(closed)} no ecash for Lightning now")
    return ok("mints", told)


def _name(facts: MintFacts) -> str:
    assert facts.info is not None
    return (facts.info.version or facts.info.name or "software unknown")[:80]


def _is_disabled(facts: MintFacts, nut: int) -> bool:
    setting = facts.info.nuts.get(str(nut)) if facts.info else None
    return isinstance(setting, dict) and setting.get("disabled") is True
