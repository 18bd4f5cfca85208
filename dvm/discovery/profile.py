"""Who an agent is and where it reads, beside its announcement: kind 0 (NIP-01, NIP-24), 10002 (NIP-65), 10050 (NIP-17).

These belong to the key and stay when the agent stops. Other clients may have written them too, so what they say is
read first: of a profile only what the agent says is changed, and what is as it should be is not published again. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dvm.agent import Agent
from dvm.discovery.directory import one_line
from dvm.discovery.names import Leads, NameCheck
from identity import Event, EventTemplate, Tags, make_template
from identity.nip05 import NAME_CHARS_MAX
from relay_bridge.mailboxes import RELAY_LIST, RELAYS_MAX

PROFILE: Final = 0
LETTER_RELAYS: Final = 10050
KINDS: Final = (PROFILE, RELAY_LIST, LETTER_RELAYS)
LETTER_RELAYS_MAX: Final = 3  # NIP-17 advises one to three


def introductions(
    agent: Agent, relays: Sequence[str], known: Mapping[int, Event], name: NameCheck | None, now: int
) -> list[EventTemplate]:
    """The events that have to be published. `relays` are those that the agent listens on, the best first.

    `known` are the newest events of `KINDS` under its key, by kind; `name` what came of asking for its NIP-05 name.
    """
    wanted = [
        _profile(agent, known.get(PROFILE), name),
        _relay_list(RELAY_LIST, "r", relays[:RELAYS_MAX], known),
        _relay_list(LETTER_RELAYS, "relay", relays[:LETTER_RELAYS_MAX], known),
    ]
    return [
        make_template(kind, content=content, tags=tags, created_at=_after(known.get(kind), now))
        for kind, content, tags in filter(None, wanted)
    ]


def announced_name(event: Event) -> str:
    """The NIP-05 name that a profile claims, "" if it claims none. It is fit to be shown, and not checked."""
    return one_line(_read(event).get("nip05"), NAME_CHARS_MAX)


_Wanted = tuple[int, str, Tags]


def _profile(agent: Agent, known: Event | None, name: NameCheck | None) -> _Wanted | None:
    before = _read(known)
    after = before | {"name": agent.name, "bot": True}
    after |= {"about": agent.about} if agent.about else {}
    after |= {"picture": agent.picture} if agent.picture else {}
    if name is not None and name.leads is Leads.HERE:
        after["nip05"] = agent.nip05
    elif name is not None and name.leads is Leads.ELSEWHERE:
        after.pop("nip05", None)
    if after == before:
        return None
    return PROFILE, msgspec.json.encode(after).decode(), known.tags if known else ()


def _relay_list(kind: int, tag: str, relays: Sequence[str], known: Mapping[int, Event]) -> _Wanted | None:
    tags = tuple((tag, url) for url in relays)
    before = known.get(kind)
    return None if before is not None and before.tags == tags else (kind, "", tags)


def _read(profile: Event | None) -> dict[str, Any]:
    try:
        return msgspec.json.decode(profile.content, type=dict[str, Any]) if profile else {}
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _after(known: Event | None, now: int) -> int:
    """A date by which relays take the new event for the newer one."""
    return max(now, known.created_at + 1) if known else now
