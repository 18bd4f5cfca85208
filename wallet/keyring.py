"""The mints we trust: their clients, and their keysets pinned in the store at first sight (NUT-01, NUT-02)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from store import Clock, Database
from wallet import queries
from wallet.errors import MintUnavailable, UnknownMint
from wallet.keysets import Keyset, check_keyset, is_keyset_id
from wallet.mint import KeysetAnswer, MintClient, MintInfo, MintTransport, normalise_mint_url
from wallet.proofs import SAT, Lock

FRESH_SECONDS: Final = 3600  # a keyset rotated meanwhile costs one refused request, no more
CLOCK_FRESH_SECONDS: Final = 600  # clocks drift by less than a second in that time
REFUND_SECONDS: Final = 86_400  # that a refund may come after its locktime: the mint or its owner may be away
KEYSETS_MAX: Final = 200
NEEDED_NUTS: Final = {
    7: "say which coins are spent",
    9: "repeat a signature whose answer was lost",
    10: "know spending conditions",
    11: "lock coins to keys",
    12: "prove its signatures",
}

HTLC_NUT: Final = 14


class Keyring:
    """Clients and keysets by mint. One per wallet."""

    def __init__(
        self, db: Database, *, clock: Clock, mints: Sequence[str], transport: Callable[[str], MintTransport]
    ) -> None:
        """Raises `UnknownMint` for a malformed URL among `mints`."""
        self._db = db
        self._clock = clock
        self._transport = transport
        self._clients: dict[str, MintClient] = {}
        self._keysets: dict[str, dict[str, Keyset]] = {}
        self._infos: dict[str, tuple[int, MintInfo]] = {}  # with the time it was asked for
        self._refreshed_at: dict[str, int] = {}
        self._refreshing: dict[str, asyncio.Lock] = {}
        self._listed = tuple(dict.fromkeys(normalise_mint_url(url) for url in mints))
        #: Mints that were given up: see abandon.py.
        self.abandoned: frozenset[str] = frozenset()

    @property
    def mints(self) -> tuple[str, ...]:
        """The mints on our list that were not given up."""
        return tuple(mint for mint in self._listed if mint not in self.abandoned)

    async def close(self) -> None:
        """Close every client."""
        for client in self._clients.values():
            await client.close()

    def trusted(self, url: str) -> str:
        """The normalised URL of a mint on our list. Raises `UnknownMint`."""
        normal = normalise_mint_url(url)
        if normal in self.abandoned:
            raise UnknownMint(
                f"{normal} was given up; it is one of ours again when it answers `tradepost settle`"
            )
        if normal not in self._listed:
            raise UnknownMint(
                f"{normal} is not one of our mints; add it to the configuration if you trust it"
            )
        return normal

    def client(self, mint: str) -> MintClient:
        """The client of a mint; one that left our list still has one, for operations begun before."""
        if mint not in self._clients:
            self._clients[mint] = MintClient(mint, self._transport(mint))
        return self._clients[mint]

    async def info(self, mint: str) -> MintInfo:
        """What the mint says of itself (NUT-06), not older than an hour. Raises `MintUnavailable`."""
        return (await self._told(mint, FRESH_SECONDS))[1]

    async def clock_offset(self, mint: str) -> int:
        """By how many seconds the mint's clock is ahead of ours; 0 if it does not tell (NUT-06).

        Raises `MintUnavailable` only if the mint told nothing for an hour: one lost answer is no reason for doubt.
        """
        asked_at, info = await self._told(mint, CLOCK_FRESH_SECONDS)
        return 0 if info.time is None else info.time - asked_at

    async def _told(self, mint: str, fresh_seconds: int) -> tuple[int, MintInfo]:
        known, now = self._infos.get(mint), self._clock.now()
        age_seconds = -1 if known is None else now - known[0]
        if known is not None and 0 <= age_seconds < fresh_seconds:
            return known
        try:
            told = self._infos[mint] = now, await self.client(mint).info()
        except MintUnavailable:
            if known is not None and 0 <= age_seconds < FRESH_SECONDS:
                return known
            raise
        return told

    async def pinned(self, mint: str) -> dict[str, Keyset]:
        """The keysets we know, by id, without asking the mint."""
        if mint not in self._keysets:
            self._keysets[mint] = await queries.keysets(self._db, mint)
        return self._keysets[mint]

    async def keysets(self, mint: str) -> dict[str, Keyset]:
        """The keysets by id, asked for if that was long ago. Raises as `refresh`."""
        refreshed_at = self._refreshed_at.get(mint)
        if refreshed_at is None or not 0 <= self._clock.now() - refreshed_at < FRESH_SECONDS:
            return await self.refresh(mint)
        return await self.pinned(mint)

    async def refresh(self, mint: str) -> dict[str, Keyset]:
        """Ask the mint for its keysets and pin the new ones; callers at the same time share one question.

        Raises `MintUnavailable`, `InvalidKeyset` if ids and keys do not fit, `UnknownMint` if the mint lacks a NUT
        without which money could get lost.
        """
        lock = self._refreshing.setdefault(mint, asyncio.Lock())
        before = self._keysets.get(mint)
        async with lock:
            if self._keysets.get(mint) is before or mint not in self._refreshed_at:
                await self._fetch(mint)
                self._refreshed_at[mint] = self._clock.now()
        return self._keysets[mint]

    async def check_knows(self, mint: str, lock: Lock) -> None:
        """Raise `UnknownMint` if the mint does not say that it knows such locks.

        Keys it must know anyhow; a hash that it does not know leaves the coins to whoever has them.
        """
        if lock.hash is not None and not (await self.info(mint)).supports(HTLC_NUT):
            raise UnknownMint(f"{mint} cannot lock coins to a hash; choose another mint or way to pay")

    async def active(self, mint: str, lock: Lock | None = None) -> Keyset:
        """The keyset for new coins: sat, active, cheapest to spend, lasting well beyond the locktime of `lock`.

        Raises `MintUnavailable` if the mint has none just now.
        """
        horizon = needed_until(lock, self._clock.now())
        usable = [
            keyset
            for keyset in (await self.pinned(mint)).values()
            if keyset.active and keyset.unit == SAT and not expires_by(keyset, horizon)
        ]
        if not usable:
            raise MintUnavailable(
                f"{mint} has no active sat keyset that lasts until {horizon}; use another mint"
            )
        return min(usable, key=lambda keyset: (keyset.input_fee_ppk, keyset.id))

    async def _fetch(self, mint: str) -> None:
        client = self.client(mint)
        pinned = await self.pinned(mint)
        if mint not in self._refreshed_at:
            info = await self.info(mint)
            missing = [why for nut, why in NEEDED_NUTS.items() if not info.supports(nut)]
            if missing:
                del self._infos[mint]  # whoever mends it is asked again at once
                raise UnknownMint(f"{mint} cannot {' or '.join(missing)}; choose another mint")
        listed = await client.keysets()
        if len(listed) > KEYSETS_MAX:
            raise MintUnavailable(f"{mint} lists more than {KEYSETS_MAX} keysets")
        found = {}
        for entry in listed:
            # Old mints list base64 ids and other units: coins of such keysets are not for us.
            if entry.unit == SAT and is_keyset_id(entry.id):
                found[entry.id] = await self._checked(client, entry, pinned.get(entry.id))
        async with self._db.transaction() as tx:
            await queries.pin_keysets(tx, mint, found.values())
        retired = {
            keyset_id: replace(k, active=False) for keyset_id, k in pinned.items() if keyset_id not in found
        }
        self._keysets[mint] = retired | found

    @staticmethod
    async def _checked(client: MintClient, entry: KeysetAnswer, known: Keyset | None) -> Keyset:
        keys = known.keys if known else await client.keys(entry.id)
        keyset = Keyset(
            entry.id, entry.unit, entry.active, entry.input_fee_ppk or 0, entry.final_expiry, keys
        )
        if known and replace(keyset, active=known.active) == known:
            return keyset  # nothing that the id vouches for has changed
        await asyncio.to_thread(check_keyset, keyset)
        return keyset


def needed_until(lock: Lock | None, now: int) -> int:
    """How long the keyset of coins under this lock must last: the refund comes after the locktime, perhaps late."""
    return now if lock is None or lock.locktime is None else max(now, lock.locktime) + REFUND_SECONDS


def expires_by(keyset: Keyset, time: int) -> bool:
    """Whether the mint may have forgotten coins of this keyset at `time` (NUT-02); nutshell writes 0 for never."""
    return bool(keyset.final_expiry) and keyset.final_expiry is not None and keyset.final_expiry <= time
