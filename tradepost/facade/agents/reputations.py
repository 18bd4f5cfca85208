"""Operations on what an agent's receipts say of it: its score, its root, a receipt's file, and the check of one.

The same as `tradepost reputation` tells, in the same words; docs/reputation.md says what each means.
"""

import asyncio
from itertools import islice
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from identity import encode_npub
from identity.errors import InvalidReceipt
from identity.published import Finding
from identity.receipt_file import LEAVES_MAX, Verdict
from tradepost.errors import TradepostError
from tradepost.facade.agents.agents import TARGET, TARGET_CHARS_MAX
from tradepost.facade.agents.readings import Read
from tradepost.facade.web.headers import JSON
from tradepost.facade.web.operations import Call, Operation
from tradepost.facade.web.problems import NotFound, NotValid
from tradepost.reputation import verify_receipt as check_offline
from tradepost.verifying import Asked, Step

JOB_CHARS_MIN: Final = 8
UNREAD_MAX: Final = 100

Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Unread(msgspec.Struct, frozen=True):
    """Who was not asked, or did not answer, and why: the URL of a mint or a relay, or `reviews`."""

    who: str
    why: str


class Factor(msgspec.Struct, frozen=True):
    """One part of a score: `value` is 0 to 1, and `numbers` are what it came from."""

    weight: float
    value: float
    numbers: dict[str, float]


class AgentReputation(msgspec.Struct, frozen=True):
    """The score of an agent, 0 to 1, computed from receipts that anybody can read; everybody begins near a third.

    `backed`: how many of its jobs a customer's review stands behind whose payment a mint vouches for. `findings`: how
    many things are not as they should be. `read_at`: when relays and mints were asked, in unix seconds.
    """

    npub: str
    score: float
    jobs: int
    backed: int
    factors: dict[str, Factor]
    findings: int
    read_at: int
    unread: tuple[Unread, ...]


class LogKey(msgspec.Struct, frozen=True):
    """A key that the log of receipts was with. `committed`: the log had named it before it came."""

    key: str
    how: str
    committed: bool
    since: int | None
    until: int | None


class PreviousRoot(msgspec.Struct, frozen=True):
    """The root before, which the newest one contains."""

    root: str
    size: int


class RootAt(msgspec.Struct, frozen=True):
    """The newest root that a relay has, and what it did not do, if anything."""

    url: str
    size: int | None
    root: str | None
    trouble: str | None


class ShownFinding(msgspec.Struct, frozen=True):
    """Something that is not as it should be. `proven`: the agent's own signatures show it, in the named events."""

    finding: str
    proven: bool
    text: str
    events: tuple[str, ...]


class AgentRoot(msgspec.Struct, frozen=True):
    """The newest root of an agent's log of receipts (RFC 9162), and which relays have it.

    `consistent`: a proof shows that it grew out of the root before. `event` is the Nostr event that holds it.
    """

    npub: str
    log: str
    keys: tuple[LogKey, ...]
    contested: tuple[str, ...]
    claims: tuple[str, ...]
    root: str
    size: int
    at: int
    event: str
    previous: PreviousRoot | None
    consistent: bool
    relays: tuple[RootAt, ...]
    findings: tuple[ShownFinding, ...]
    read_at: int


class SignedEvent(msgspec.Struct, frozen=True):
    """A Nostr event (NIP-01)."""

    id: Hex32
    pubkey: Hex32
    created_at: Annotated[int, msgspec.Meta(ge=0)]
    kind: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class ReceiptLeaf(msgspec.Struct, frozen=True):
    """A leaf of the log, its number, and the hashes (hex) that prove it to be under the root."""

    number: Annotated[int, msgspec.Meta(ge=0)]
    leaf: str
    path: tuple[Hex32, ...]


class ReceiptDocument(msgspec.Struct, frozen=True):
    """The file of a receipt (docs/receipts.md), by which anybody can check it, offline."""

    format: Literal["tradepost-receipt-1"]
    root: SignedEvent
    leaves: Annotated[tuple[ReceiptLeaf, ...], msgspec.Meta(max_length=LEAVES_MAX)]
    review: SignedEvent | None


class VerifyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent`: whose receipt it is to be, by its key or name. `offline`: relays and mints are not asked."""

    agent: Annotated[str, msgspec.Meta(min_length=1, max_length=TARGET_CHARS_MAX)] | None = None
    offline: bool = False


class ReceiptCheck(msgspec.Struct, frozen=True):
    """One check. `asked`: nobody, relays, or a mint."""

    verdict: Verdict
    asked: Asked
    what: str


class Verified(msgspec.Struct, frozen=True):
    """What came of checking a receipt. `holds`: no check failed; those that were not made are among `checks`."""

    holds: bool
    checks: tuple[ReceiptCheck, ...]


async def get_reputation(call: Call) -> AgentReputation:
    """The score, with the numbers that it came from."""
    read = await call.desk.readings.read(call.part("agent"), call.client)
    judged = read.reading.audit
    told = read.score.to_dict() | {
        "npub": encode_npub(judged.chain.current),
        "findings": len(judged.findings),
        "read_at": read.at,
        "unread": _unread(read),
    }
    return msgspec.convert(told, AgentReputation)


async def get_root(call: Call) -> AgentRoot:
    """The newest root. Raises `NotFound` if the relays have none."""
    read = await call.desk.readings.read(call.part("agent"), call.client)
    report, chain = read.root, read.root.chain
    if report.event is None or report.root is None:
        raise NotFound("no root of this agent was found: it has published none, or the relays have none")
    root, before = report.root, report.root.previous
    return AgentRoot(
        npub=encode_npub(chain.current),
        log=chain.log,
        keys=tuple(
            LogKey(one.key, one.how, one.committed, one.since or None, one.until) for one in chain.tenures
        ),
        contested=tuple(event.id for event in chain.contested),
        claims=tuple(event.id for event in chain.claims),
        root=root.head.root,
        size=root.head.size,
        at=report.event.created_at,
        event=report.event.id,
        previous=PreviousRoot(before.root, before.size) if before else None,
        consistent=root.is_consistent,
        relays=tuple(
            RootAt(
                view.url,
                view.head.size if view.head else None,
                view.head.root if view.head else None,
                view.trouble or None,
            )
            for view in report.relays
        ),
        findings=tuple(_finding(one) for one in report.findings),
        read_at=read.at,
    )


async def get_receipt_file(call: Call) -> web.Response:
    """The file of one job's receipt, byte for byte as `tradepost reputation prove` writes it."""
    job = call.part("job")
    if len(job) < JOB_CHARS_MIN:
        raise NotValid(f"name the job by its request's id, or by {JOB_CHARS_MIN} characters of it at least")
    read = await call.desk.readings.read(call.part("agent"), call.client)
    try:
        file = read.reading.prove(job)
    except (TradepostError, InvalidReceipt) as error:
        raise NotFound(str(error)) from None
    return web.Response(body=file.to_json(), content_type=JSON)


async def verify_receipt(call: Call) -> Verified:
    """Check a receipt's file: whose it is, whether its root holds it, and what relays and mints say of it."""
    query: VerifyQuery = call.query
    readings = call.desk.readings
    agent = await readings.key_of(query.agent) if query.agent else None
    if query.offline:
        steps = await asyncio.to_thread(check_offline, call.raw, agent)
    else:
        steps = await readings.verify(call.raw, agent, call.client)
    holds = all(step.verdict is not Verdict.FAILED for step in steps)
    return Verified(holds, tuple(_check(step) for step in steps))


def _check(step: Step) -> ReceiptCheck:
    return ReceiptCheck(step.verdict, step.asked, step.what)


def _finding(finding: Finding) -> ShownFinding:
    return ShownFinding(
        finding.kind, finding.is_proven, finding.text, tuple(event.id for event in finding.events)
    )


def _unread(read: Read) -> list[dict[str, Any]]:
    reading = read.reading
    gaps = [*reading.unasked.items(), *((view.url, view.trouble) for view in reading.material.relays)]
    if number := reading.material.unreadable:
        gaps.append(("reviews", f"{number} have not the form of a review"))
    return [{"who": who, "why": why} for who, why in islice(gaps, UNREAD_MAX) if why]


_BUSY: Final = ("not_found", "bad_request", "busy")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="get_reputation",
        method="GET",
        path="/v1/agents/{agent}/reputation",
        about="Get an agent's score\n\nComputed here from receipts that relays and mints vouch for, as they were some "
        "minutes ago at most; each factor with the numbers that it came from. A key need not be of a listed agent.",
        handler=get_reputation,
        answer=AgentReputation,
        parts=(TARGET,),
        costly=True,
        problems=_BUSY,
        group="Reputation",
    ),
    Operation(
        name="get_root",
        method="GET",
        path="/v1/agents/{agent}/root",
        about="Get the root of an agent's receipts\n\nThe newest head of its log, and which relays have it.",
        handler=get_root,
        answer=AgentRoot,
        parts=(TARGET,),
        costly=True,
        problems=_BUSY,
        group="Reputation",
    ),
    Operation(
        name="get_receipt_file",
        method="GET",
        path="/v1/agents/{agent}/receipts/{job}",
        about="Get the file of a receipt\n\nThe root, the job's leaf with its proof, and the customer's review: for "
        "verify_receipt, `tradepost reputation verify`, or examples/verify_receipt.py.",
        handler=get_receipt_file,
        answer=ReceiptDocument,
        parts=(
            TARGET,
            ("job", f"the id of its request, or the first characters of it, {JOB_CHARS_MIN} at least"),
        ),
        costly=True,
        problems=_BUSY,
        group="Reputation",
    ),
    Operation(
        name="verify_receipt",
        method="POST",
        path="/v1/verify",
        about="Check a receipt\n\nThe body is the file of one. Offline nobody is asked; else relays are asked whether "
        "its root is still the one, and mints that this desk trusts whether the payment was made. No other address in "
        "it is ever visited.",
        handler=verify_receipt,
        query=VerifyQuery,
        body=ReceiptDocument,
        answer=Verified,
        costly=True,
        problems=(*_BUSY, "invalid_receipt"),
        group="Reputation",
    ),
)
