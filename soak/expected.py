"""What a run without storms, deaths and cheats must come to: told from its plan alone."""

from dataclasses import dataclass

from soak.plan import Plan
from soak.world import DELIVER_SECONDS, DISPUTE_SECONDS, PRICE_SAT, REVIEW_SECONDS, Weather
from wallet.terms import MARGIN_SECONDS

SLACK_SECONDS = 10  # what messages and turns take in fair weather


@dataclass(frozen=True)
class Expected:
    """What the provider has in the end, and whether the customer must have the rest before the locktime."""

    provider_sat: int
    before_locktime: bool = False


def expected(plan: Plan) -> Expected | None:
    """None if it cannot be told: clocks differ, somebody dies or cheats, or it depends on a second."""
    if plan.cheat or plan.weather != Weather() or "leaves" in (plan.provider, plan.customer):
        return None
    if plan.kills:  # if all are back soon, the job is done nevertheless
        brief = all(name != "arbiter" and seconds <= 5 for name, _, seconds in plan.kills)
        return Expected(PRICE_SAT) if brief and _is_plain(plan) else None
    judges = plan.arbiter != "leaves"
    if plan.provider == "fails":
        return Expected(0, before_locktime=True)
    late = plan.works_seconds > DELIVER_SECONDS + MARGIN_SECONDS + SLACK_SECONDS
    if plan.provider == "regrets":
        return None
    if plan.provider == "hangs" or late:
        return None if plan.customer == "relents" else Expected(0, before_locktime=judges)
    if plan.works_seconds > DELIVER_SECONDS - SLACK_SECONDS:
        return None
    if plan.customer not in ("disputes", "relents"):
        return Expected(PRICE_SAT)
    if plan.acts_seconds > REVIEW_SECONDS + 1:
        return Expected(PRICE_SAT)
    if plan.acts_seconds > REVIEW_SECONDS - SLACK_SECONDS or not judges:
        return None
    ruled = plan.arbiter == "rules" and plan.rules_seconds < DISPUTE_SECONDS - SLACK_SECONDS
    if plan.customer == "relents" and not (
        ruled and plan.rules_seconds < plan.relents_seconds - SLACK_SECONDS
    ):
        crosses = ruled and plan.rules_seconds < plan.relents_seconds + SLACK_SECONDS
        return None if crosses else Expected(PRICE_SAT)
    return Expected(plan.award_sat, before_locktime=True) if ruled else Expected(0)


def _is_plain(plan: Plan) -> bool:
    return (
        plan.provider == "works"
        and plan.customer not in ("disputes", "relents")
        and 4 * plan.works_seconds < DELIVER_SECONDS
    )
