"""The root of an agent's log, and the leaves under it, on the relays.

A root goes out when a hundred leaves are new, or some minutes after the first new one, in one transaction with the
pages that have these leaves and with the note of what went out. Before the first one the relays are asked what they
have of the log: what they know and we do not (a folder brought back from an old copy, or from the words) is taken into
ours again, and a log that contradicts theirs is neither added to nor published.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

import structlog

from dvm import queries_reputation as logged
from dvm.post import Post
from dvm.reputation.keys import current_key, keys_of
from dvm.reputation.record import subject_of
from dvm.stored import stored_events
from identity import Event, InvalidReceipt, Signer, merkle, parse_event
from identity import log as logs
from identity.receipts import KeyLeaf, parse_leaf
from identity.roots import (
    APP_DATA,
    LEAVES_NAME,
    RELAYS_MAX,
    ROOT_NAME,
    ROOT_REPLACEABLE,
    Head,
    Root,
    find_leaves,
    make_pages,
    parse_page,
    parse_root,
)
from relay_bridge import Filter
from store import Transaction

ROOT_LEAVES: Final = 100
ROOTS_ASKED: Final = 50
ASK_SECONDS_MAX: Final = 10.0
FIRST_SECONDS: Final = 1800  # for all relays to be there before a first root goes out

log = structlog.get_logger(__name__)


class LogConflict(Exception):  # noqa: N818 - it says how things stand
    """The relays have a log of ours that ours is no beginning of, or not all of its leaves."""


class Publisher:
    """Publishes the log called `name` under the key of `signer`, by the pool's relays."""

    def __init__(self, post: Post, signer: Signer, name: str, root_seconds: int) -> None:
        self._post = post
        self._signer = signer
        self._key = signer.public_key
        self._name = name
        self._root_seconds = root_seconds
        self._news_since: int | None = None
        self._asked_since: int | None = None

    async def has_news(self) -> bool:
        """Whether leaves wait to be published, or a relay to be given what there is."""
        size, last = (await self._frontier()).size, (await self._last()).head
        return size > last.size or bool(await self._behind(last.size))

    async def publish_if_due(self) -> None:
        """Publish what is new, if there is enough of it or it has waited for long enough; new relays do not wait."""
        now, last = self._post.clock.now(), (await self._last()).head
        new = (await self._frontier()).size - last.size
        if not new:
            self._news_since = None
        elif self._news_since is None:
            self._news_since = now
        has_waited = self._news_since is not None and now >= self._news_since + self._root_seconds
        if new >= ROOT_LEAVES or has_waited or await self._behind(last.size):
            await self.publish()

    async def publish(self) -> Head:
        """Publish all that is new, and to relays that are new what is old; returns what then is the newest root."""
        frontier, last = await self._frontier(), await self._last()
        head = Head(frontier.size, frontier.root.hex())
        behind = await self._behind(last.head.size)
        if head.size == last.head.size and not behind:
            return last.head
        # Later than the root before: relays keep the newest of a replaceable event, by this alone.
        now = max(self._post.clock.now(), last.created_at + 1)
        roots, pages = (
            await self._roots(last.head, head, now),
            await self._pages(last.head.size, head.size, now),
        )
        older = {url: await self._pages(given, last.head.size, now) for url, given in behind.items()}
        whom = None if pages else list(behind)
        async with self._post.db.transaction() as tx:
            await logged.note_published(tx, self._name, head, roots[0])
            for url, missed in older.items():
                await self._send(tx, [*missed, *_rotations_in(missed)], [url])
            await self._send(tx, [*pages, *roots], whom)  # the leaves before the root that stands for them
            for url in self._post.pool.urls:
                await logged.note_given(tx, self._name, self._key, url, head.size)
        self._news_since = None
        log.info("root_published", log=self._name, size=head.size, root=head.root)
        return head

    async def _behind(self, size: int) -> dict[str, int]:
        """Our relays that were not given all of the first `size` leaves, and how many of them they were."""
        given = await logged.given(self._post.db, self._name, self._key)
        return {url: given.get(url, 0) for url in self._post.pool.urls if given.get(url, 0) < size}

    async def _send(self, tx: Transaction, events: Iterable[Event], relays: Sequence[str] | None) -> None:
        for event in events:
            await self._post.outbox.add(tx, event, relays or (), own=relays is None)

    async def _roots(self, last: Head, head: Head, now: int) -> list[Event]:
        """The root's regular event and its replaceable one."""
        previous, proof = (None, []) if last.size == 0 else (last, await self._proof(last, head))
        root = Root(self._name, head, previous, tuple(proof), self._post.pool.urls[:RELAYS_MAX])
        return [await self._signer.sign(template) for template in root.to_templates(now)]

    async def _pages(self, first: int, end: int, now: int) -> list[Event]:
        leaves: list[str] = []
        while first + len(leaves) < end:
            leaves += await logs.read_leaves(self._post.db, self._name, first + len(leaves))
        pages = make_pages(self._name, first, leaves[: end - first])
        # A second apart, the last one dated now: of what is dated alike a relay gives no more than fits one answer.
        dates = range(now - len(pages) + 1, now + 1)
        return [await self._signer.sign(page.to_template(at)) for page, at in zip(pages, dates, strict=True)]

    async def _proof(self, last: Head, head: Head) -> list[str]:
        return [
            one.hex() for one in await logs.prove_consistency(self._post.db, self._name, last.size, head.size)
        ]

    async def _frontier(self) -> merkle.Frontier:
        return await logs.read_frontier(self._post.db, self._name)

    async def _last(self) -> logged.Published:
        found = await logged.last_published(self._post.db, self._name)
        return found or logged.Published(Head(0, merkle.EMPTY_ROOT.hex()), 0)

    # What the relays know ------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Take in what the relays have of this log and we have not. Waits until one of them is there.

        Where nothing was published from here yet, each relay must answer: one that is away may have the log of a folder
        that was lost. It is waited for so long and no longer. Raises `LogConflict` until then, and if theirs does not
        continue ours, or its leaves are not to be had; nothing is written then.
        """
        await self._post.pool.up()
        self._asked_since = self._asked_since or self._post.clock.now()
        is_first = not (await self._last()).head.size
        if (
            is_first
            and self._post.clock.now() < self._asked_since + FIRST_SECONDS
            and (away := await self._away())
        ):
            raise LogConflict(
                f"{', '.join(away)} cannot be asked whether there is a log of this agent already; the first root waits "
                "for that, half an hour at most"
            )
        roots = await self._published_roots()
        newest = max(roots, key=lambda found: found[1].head.size, default=None)
        if newest is None:
            return
        event, root = newest
        ours = await self._frontier()
        if root.head.size <= ours.size:
            await self._check_beginning(root.head)
        else:
            await self._take_in(root.head, ours, frozenset(one.head for _, one in roots))
        if root.head.size > (await self._last()).head.size:  # what went out before the folder was lost
            async with self._post.db.transaction() as tx:
                await logged.note_published(tx, self._name, root.head, event)
                for url in self._post.pool.urls:  # who had not all of it cannot be told from who had
                    await logged.note_given(tx, self._name, self._key, url, root.head.size)

    async def _away(self) -> list[str]:
        """Those of our relays that are not there, once each was tried: one may only be slower than another."""
        relays = [self._post.pool.relay(url) for url in self._post.pool.urls]
        came = await asyncio.gather(*(relay.tried() for relay in relays))
        return [relay.url for relay, is_there in zip(relays, came, strict=True) if not is_there]

    async def _check_beginning(self, theirs: Head) -> None:
        root = await logs.read_root(self._post.db, self._name, theirs.size)
        if root.hex() != theirs.root:
            raise LogConflict(
                f"the relays have a root of this log at {theirs.size} leaves that ours contradicts: two posts run with "
                "the same key, or this folder is a copy of another; stop one of them"
            )

    async def _take_in(self, theirs: Head, ours: merkle.Frontier, stated: frozenset[Head]) -> None:
        pages = Filter(kinds=(APP_DATA,), authors=await self._authors(), tags={"t": (LEAVES_NAME,)})
        found = []
        for event in await stored_events(self._post.pool, pages):
            try:
                found.append(parse_page(event))
            except InvalidReceipt as error:
                log.info("page_ignored", event=event.id, reason=str(error))
        leaves = find_leaves([page for page in found if page.log == self._name], theirs, stated)
        if leaves is None:
            raise LogConflict(
                f"the relays have a root of this log over {theirs.size} leaves, ours has {ours.size}, and the relays "
                "do not have the rest: name those that do in tradepost.yaml (relays: […])"
            )
        start, _ = merkle.Frontier().extend([merkle.leaf_hash(leaf.encode()) for leaf in leaves[: ours.size]])
        if start.root != ours.root:
            raise LogConflict("this log has leaves that the longer one on the relays has not")
        async with self._post.db.transaction() as tx:
            if (await logs.read_frontier(tx, self._name)).size == ours.size:
                await logs.append(tx, self._name, leaves[ours.size :])
                await self._note_leaves(tx, ours.size, leaves[ours.size :])
        log.warning("log_taken_in", log=self._name, leaves=len(leaves) - ours.size)

    async def _note_leaves(self, tx: Transaction, first: int, leaves: Sequence[str]) -> None:
        """Jobs and reviews that are here, or come back later, are not entered again."""
        for number, leaf in enumerate(map(parse_leaf, leaves), first):
            if not isinstance(leaf, KeyLeaf):
                await logged.note_leaf(tx, self._name, subject_of(leaf), number)

    async def _published_roots(self) -> list[tuple[Event, Root]]:
        """By the key that has the log now: an earlier one may be a thief's, and publish what was never ours."""
        authors = tuple({await current_key(self._post.db, self._name), self._signer.public_key})
        asked = [
            Filter(kinds=(ROOT_REPLACEABLE,), authors=authors, tags={"d": (ROOT_NAME,)}),
            Filter(kinds=(APP_DATA,), authors=authors, tags={"t": (ROOT_NAME,)}, limit=ROOTS_ASKED),
        ]
        found = []
        for event in await self._post.pool.query(asked, seconds_max=ASK_SECONDS_MAX):
            try:
                root = parse_root(event)
            except InvalidReceipt as error:
                log.info("root_ignored", event=event.id, reason=str(error))
                continue
            if root.log == self._name:
                found.append((event, root))
        return found

    async def _authors(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(chain(await keys_of(self._post.db, self._name), [self._signer.public_key]))
        )


def _rotations_in(pages: Iterable[Event]) -> list[Event]:
    """The events by which the log was handed on, out of pages for a relay that was not there then."""
    lines = (line for page in pages for line in page.content.split("\n") if '"rotation"' in line)
    leaves = (parse_leaf(line) for line in lines)
    return [parse_event(leaf.rotation) for leaf in leaves if isinstance(leaf, KeyLeaf) and leaf.rotation]
