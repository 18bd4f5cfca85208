"""Check of the relays: can they be reached, and do they take our events."""

from typing import Any, Final

from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.probes import RelayFacts
from tradepost.doctor.setup import Setup

SLOW_SECONDS: Final = 3.0
EVENT_BYTES: Final = 65_536  # of the largest events we make


async def check_relays(setup: Setup) -> list[Finding]:
    """One line for each relay; it fails only if no relay does its work, for then nobody is heard."""
    facts = await setup.relays
    findings = [judge_relay(one) for one in facts]
    if facts and not any(one.accepted for one in facts):
        mend = "name others: export TRADEPOST_RELAYS=wss://…"
        findings.append(fail("relays", "no relay takes our events: nobody hears this post", mend))
    return findings


def judge_relay(facts: RelayFacts) -> Finding:
    """How one relay does."""
    if facts.connect_seconds is None:
        mend = "check its address and this machine's network, or leave it out of relays"
        return warn("relays", f"{facts.url} cannot be reached: {facts.error}", mend)
    if not facts.accepted:
        said = _shortened(facts.answer or "no reason given")
        return warn("relays", f"{facts.url} refuses our events: {said}", _remedy(said))
    about = f"{facts.url} connects in {facts.connect_seconds:.2f} s, takes an event in {facts.publish_seconds:.2f} s"
    limits = judge_page(facts.page)
    if limits:
        return warn("relays", f"{about}, but {'; '.join(limits)}", "name another beside it")
    if facts.connect_seconds > SLOW_SECONDS:
        return warn("relays", f"{about}: slow", "name another beside it")
    return ok("relays", f"{about}; {_software(facts.page)}")


def judge_page(page: dict[str, Any] | None) -> list[str]:
    """What a relay's NIP-11 page says against it."""
    limits = page.get("limitation") if page else None
    if not isinstance(limits, dict):
        return []
    found = []
    if limits.get("payment_required") is True:
        found.append("it wants to be paid")
    if limits.get("restricted_writes") is True:
        found.append("it takes events from some keys only")
    bits = limits.get("min_pow_difficulty")
    if isinstance(bits, int) and bits > 0:
        found.append(f"it wants {bits} bits of work in each event")
    size = limits.get("max_message_length")
    if isinstance(size, int) and 0 < size < EVENT_BYTES:
        found.append(f"it takes messages of {size} bytes at most, and results may have {EVENT_BYTES}")
    return found


def _remedy(said: str) -> str:
    return {
        "auth-required": "it lets in only those it knows: register with it, or name another",
        "restricted": "it lets in only those it knows: register with it, or name another",
        "pow": "it wants work in each event, which is not done here: name another",
        "rate-limited": "wait, or name another beside it",
    }.get(said.partition(":")[0], "name another")


def _software(page: dict[str, Any] | None) -> str:
    if page is None:
        return "no NIP-11 page"
    told = [str(page.get(name) or "") for name in ("software", "version")]
    return _shortened(" ".join(filter(None, [told[0].rpartition("/")[2], told[1]])) or "software unknown")


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
