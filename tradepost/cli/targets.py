"""Who is asked: what an agent announces, read before anything is asked of it.

An agent need not announce itself: that our relays know nothing of one is no reason not to ask it.
"""

from collections.abc import Sequence

from dvm import Post
from dvm.discovery.announce import find_called, look_up
from dvm.discovery.directory import Listing
from dvm.kinds import name_of
from dvm.orders.asking import named_key
from identity import encode_npub
from tradepost.cli.output import age, price_words
from tradepost.errors import TradepostError

WHICH_KIND = "which kind of job? Say it with --kind, by number or name"


async def only_kind(post: Post, target: str) -> int:
    """The kind of job that the agent does whose key or name is `target`. Raises `TradepostError` unless it is one."""
    key = named_key(target)
    look = look_up(post.pool, post.clock, key) if key else find_called(post.pool, post.clock, target)
    found = await look
    kinds = {kind for one in found for kind in one.kinds}
    if len(kinds) == 1:
        return kinds.pop()
    if found:
        raise TradepostError(f"{WHICH_KIND}: it does {_offers(found)}")
    nobody = (
        "the agent has not announced any" if key else f"{target!r} is the name neither of one nor of an agent"
    )
    raise TradepostError(f"{WHICH_KIND}: {nobody} on {', '.join(post.pool.urls)}")


def unannounced(post: Post) -> str:
    """What is said of an agent that was looked for by its key and not found."""
    return f"the agent announces nothing on {', '.join(post.pool.urls)}: it is closed, or elsewhere, or never does"


def doubts(found: Sequence[Listing], kind: int, max_sat: int, now: int, *, others: bool) -> list[str]:
    """What speaks against asking one agent for `kind`, by its announcements; with `others` the next one is asked.

    Raises `TradepostError` if it announces other kinds only, and there are to be no others.
    """
    if not found:
        return []
    name = found[0].name or f"{encode_npub(found[0].public_key)[:12]}…"
    serving = [one for one in found if kind in one.kinds]
    if not serving:
        instead = f"{name} announces no {name_of(kind)} ({kind}), but {_offers(found)}"
        if not others:
            raise TradepostError(f"{instead}. Ask for that, or say --or-others: another agent is asked then")
        return [f"{instead}: others are asked"]
    told = []
    price_msat = serving[0].prices_msat[kind]
    if price_msat is not None and price_msat > 1000 * max_sat:
        told.append(f"{name} announces {price_words(price_msat)} for this, and --max-sat is {max_sat}")
    if not any(one.alive for one in found):
        beats = [one.beat_at for one in found if one.beat_at is not None]
        seen = (
            f"its last heartbeat is {age(now - max(beats))} old" if beats else "there is no heartbeat of it"
        )
        hint = "" if others else "; with --or-others the next agent is asked if it does not answer"
        told.append(f"{name} seems not to run: {seen}{hint}")
    return told


def _offers(found: Sequence[Listing]) -> str:
    prices = {kind: one.prices_msat[kind] for one in reversed(found) for kind in one.kinds}
    return ", ".join(f"{name_of(kind)} ({kind}, {price_words(price)})" for kind, price in prices.items())
