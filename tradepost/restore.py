"""A post from nothing but its words: keys derived, coins asked of the mints, jobs and orders read back from the relays.

Every step adds only what is not there, so all of it may be killed and run again, over an empty folder or a full one.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec
import orjson
import structlog

import wallet
from dvm import Post, queries_keys
from dvm.jobs.restore import JobsRestored, restore_jobs
from dvm.orders.restore import OrdersRestored, restore_orders
from dvm.queries_keys import KeyRow
from dvm.records import make_record, read_records
from dvm.reputation.keys import log_of, next_key
from dvm.reputation.publisher import LogConflict, Publisher
from identity import IdentityError, LocalSigner, SecretKey, read_key_file
from relay_bridge import Connect, RelayPool
from store import Clock, SystemClock
from tradepost.errors import ConfigError
from tradepost.facade.callers.queries_sessions import Ended, end_all_sessions
from tradepost.key_files import keep_next, put_in_place
from tradepost.post import STALE, is_of_words, open_post, own_key, put_seed, reach, read_seed
from tradepost.settings import Settings
from wallet import HttpTransport, MintTransport, Seed, UnknownMint
from wallet.mint import normalise_mint_url
from wallet.seed import CUSTOMER

NAMES_MAX: Final = 100
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_WEEK_SECONDS: Final = 7 * 86400
_STILL_STALE: Final = (
    "what came from a backup is not opened before a relay and each of its mints has answered: run `tradepost restore` "
    "again, or take a mint that is gone for good off `mints`"
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KeyRestored:
    """A key of the post. `trouble`: why it is not what the words give, and what to do; empty if it is."""

    name: str
    public_key: str
    trouble: str = ""


@dataclass(frozen=True)
class Report:
    """What came back. `troubles` says in words what did not, each with the next step."""

    keys: tuple[KeyRestored, ...]
    mints: tuple[wallet.Restored, ...]
    untrusted: tuple[str, ...]  # mints that are not in the configuration
    jobs: dict[str, JobsRestored]
    orders: OrdersRestored
    balance_sat: int
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """What mints and relays had. `is_current`: nobody who was asked can know of more that concerns money."""

    mints: tuple[wallet.Restored, ...]
    orders: OrdersRestored
    jobs: dict[str, JobsRestored]
    log_troubles: tuple[str, ...]
    balance: dict[str, int]
    is_current: bool


@dataclass(frozen=True)
class _Kept:
    """What the relays keep for the seed."""

    public_keys: dict[str, str] = field(default_factory=dict)  # by name
    mints: tuple[str, ...] = ()
    handed_on: tuple[KeyRow, ...] = ()
    records: tuple[dict[str, Any], ...] = ()
    troubles: tuple[str, ...] = ()


async def keep_record(settings: Settings, post: Post) -> None:
    """Keep at the relays, readable by the seed alone, what a restore must know beside it: our names and our mints.

    Renewed when it changes, and weekly, as relays forget. Nothing is published otherwise.
    """
    week = post.clock.now() // _WEEK_SECONDS
    content = {
        "type": "post",
        "keys": {name: _public_key(settings, name) for name in _names_here(settings)},
        "mints": sorted({*settings.mints, *await post.wallet.balance()}),
        "handed_on": [asdict(row) for row in await queries_keys.of_post(post.db)],
    }
    mark = hashlib.sha256(orjson.dumps([content, sorted(post.pool.urls), week])).hexdigest()
    file = settings.data / "record"
    if file.exists() and file.read_text(encoding="ascii") == mark:
        return
    post.pool.add_signer(LocalSigner(post.seed.identity(CUSTOMER)))
    event = await make_record(post.seed, "post", content, now=post.clock.now())
    async with post.db.transaction() as tx:
        await post.outbox.add(tx, event)
    file.write_text(mark, encoding="ascii")


async def restore_post(
    settings: Settings,
    seed: Seed | None,
    *,
    mints: Iterable[str] = (),
    agents: Iterable[str] = (),
    clock: Clock | None = None,
    connect: Connect | None = None,
    transport: Callable[[str], MintTransport] = HttpTransport,
) -> Report:
    """Bring the post of `settings` back by `seed` (None: the one in its folder), and say what came.

    `mints` and `agents` (their short names) are added to what configuration and relays know. Raises `ConfigError` if
    the folder holds another seed, `UnknownMint` for a malformed URL, `PostBusy`.
    """
    clock = clock or SystemClock()
    if seed is None and not settings.seed_file.exists():
        raise ConfigError(f"there is no {settings.seed_file}: restore needs the words")
    named, asked = [normalise_mint_url(url) for url in mints], list(agents)
    for name in asked:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no short name: lower-case letters and digits, with dashes between them"
            )
    if seed is not None:
        put_seed(settings, seed)
    seed = read_seed(settings)
    kept = await _read_kept(settings, seed, clock, connect)
    names = list(dict.fromkeys([CUSTOMER, *asked, *kept.public_keys, *_names_here(settings)]))[:NAMES_MAX]
    for row in kept.handed_on:
        _go_over(settings, seed, row)
    keys = [_restore_key(settings, seed, name, kept.public_keys.get(name, "")) for name in names]
    signers = {name: signer for name in names if (signer := _signer(settings, name))}
    trusted = tuple(dict.fromkeys([*settings.mints, *named, *kept.mints]))
    async with open_post(
        settings.model_copy(update={"mints": trusted}), clock=clock, connect=connect, transport=transport,
        catching_up=True,
    ) as post:  # fmt: skip
        found = await _look(settings, post, kept, signers, trusted)
    troubles = [*kept.troubles, *_troubles(keys, found.mints, found.jobs, found.orders), *found.log_troubles]
    if found.is_current:
        (settings.data / STALE).unlink(missing_ok=True)
    elif (settings.data / STALE).exists():
        troubles.append(_STILL_STALE)
    return Report(
        keys=tuple(keys),
        mints=found.mints,
        untrusted=tuple(mint for mint in found.balance if mint not in settings.mints),
        jobs=found.jobs,
        orders=found.orders,
        balance_sat=sum(found.balance.values()),
        troubles=tuple(troubles),
    )


async def _look(
    settings: Settings, post: Post, kept: _Kept, signers: Mapping[str, LocalSigner], mints: Sequence[str]
) -> _Found:
    """Ask mints for coins, relays for orders, jobs and logs, and write down what is not here."""
    async with post.db.transaction() as tx:
        for row in kept.handed_on:
            await queries_keys.put(tx, row)
        if (settings.data / STALE).exists():
            await end_all_sessions(tx, Ended.RESTORED)
    found = await asyncio.gather(*(post.wallet.restore(mint) for mint in mints))
    for signer in signers.values():
        post.pool.add_signer(signer)
    orders = OrdersRestored()
    for customer in _customers(signers, kept.records):
        orders += await restore_orders(post, customer, kept.records)
    agents = {name: signer for name, signer in signers.items() if name != CUSTOMER}
    jobs = {name: await restore_jobs(post, signer) for name, signer in agents.items()}
    has_relay = not await reach(post.pool)
    # Without a relay, which is told already, they would wait for one.
    logs = [await _catch_up_log(post, name, signer) for name, signer in agents.items() if has_relay]
    return _Found(
        mints=tuple(found),
        orders=orders,
        jobs=jobs,
        log_troubles=tuple(filter(None, logs)),
        balance=await post.wallet.balance(),
        is_current=has_relay and not any(one.trouble for one in found if one.mint in settings.mints),
    )


async def _read_kept(settings: Settings, seed: Seed, clock: Clock, connect: Connect | None) -> _Kept:
    async with RelayPool(
        settings.relays, clock=clock, connect=connect, allow_private=settings.allow_private_relays
    ) as pool:
        pool.add_signer(LocalSigner(seed.identity(CUSTOMER)))
        if unreachable := await reach(pool):
            return _Kept(troubles=(f"{unreachable}; run it again, or name other relays in TRADEPOST_RELAYS",))
        records = await read_records(pool, seed, clock)
        down = [relay.url for relay in pool.health().values() if not relay.connected]
    troubles = [f"{url} was not reached, and may hold more; run `tradepost restore` again" for url in down]
    post = next((record for record in records if record.get("type") == "post"), {})
    mints = [*post.get("mints", ()), *(record.get("mint", "") for record in records)]
    return _Kept(
        public_keys={
            name: str(key) for name, key in dict(post.get("keys", {})).items() if _NAME.fullmatch(str(name))
        },
        mints=tuple(_readable_mints(mints)),
        handed_on=tuple(_readable_keys(post.get("handed_on", ()))),
        records=tuple(records),
        troubles=tuple(troubles),
    )


def _readable_mints(urls: Iterable[object]) -> Iterable[str]:
    for url in urls:
        try:
            if url and isinstance(url, str):
                yield normalise_mint_url(url)
        except UnknownMint:
            log.warning("mint_in_record_unreadable")


def _readable_keys(rows: object) -> list[KeyRow]:
    try:
        found = msgspec.convert(rows, list[KeyRow])
    except msgspec.ValidationError:
        log.warning("keys_in_record_unreadable")
        return []
    return [row for row in found if _NAME.fullmatch(row.agent) and row.number >= 0]


def _go_over(settings: Settings, seed: Seed, row: KeyRow) -> None:
    """Put the key that an agent had gone over to into its place, if the words give it."""
    path = settings.key_file(row.agent)
    if (
        row.number == 0
        or row.until is not None
        or (path.exists() and _public_key(settings, row.agent) == row.key)
    ):
        return
    key = next_key(seed, row.log, row.number)
    if key.public_key == row.key:
        keep_next(settings, row.key, key)
        put_in_place(settings, row.agent, old=seed.identity(row.agent).public_key, new=row.key)


def _names_here(settings: Settings) -> list[str]:
    """Whose keys are in the post's folder."""
    return sorted(path.stem for path in settings.key_file(CUSTOMER).parent.glob("*.nsec"))


def _public_key(settings: Settings, name: str) -> str:
    """The public key in a file, "" if it is under a password or elsewhere."""
    signer = _signer(settings, name)
    return signer.public_key if signer else ""


def _signer(settings: Settings, name: str) -> LocalSigner | None:
    """The key of that name as it is in the folder; None without one that can be used as it is."""
    path = settings.key_file(name)
    try:
        key = read_key_file(path) if path.exists() else None
    except IdentityError as error:
        log.warning("key_file_unreadable", name=name, reason=str(error))
        return None
    return LocalSigner(key) if isinstance(key, SecretKey) else None


def _restore_key(settings: Settings, seed: Seed, name: str, known: str) -> KeyRestored:
    """Put the key of that name into its file if there is none and the words give it. `known`: its public key or ""."""
    derived = seed.identity(name).public_key
    path = settings.key_file(name)
    if not path.exists():
        if known not in ("", derived):
            return KeyRestored(name, known, f"it was not made of the words: put your copy of it into {path}")
        own_key(settings, name)
        return KeyRestored(name, derived)
    here = _public_key(settings, name)
    if not here:
        return KeyRestored(
            name, known, "it is under a password or with a remote signer, so its jobs were not looked for; for that "
            f"`tradepost key decrypt {name}` first",
        )  # fmt: skip
    if not is_of_words(settings, name, here):
        return KeyRestored(name, here, f"it is not made of the words: keep a copy of {path}")
    return KeyRestored(name, here)


async def _catch_up_log(post: Post, name: str, signer: LocalSigner) -> str:
    """Take the leaves of an agent's log that the relays have into ours; returns why that could not be, "" if it was."""
    public_key = signer.public_key
    publisher = Publisher(post, signer, await log_of(post.db, public_key), root_seconds=0)
    try:
        await publisher.catch_up()
    except LogConflict as error:
        return f"the log of {name}: {error}"
    return ""


def _customers(signers: Mapping[str, LocalSigner], records: Sequence[dict[str, Any]]) -> list[str]:
    """Under which keys this post asked for work: the customer's, and those that its records name."""
    named = [str(record["customer"]) for record in records if record.get("customer")]
    own = [signers[CUSTOMER].public_key] if CUSTOMER in signers else []
    return list(dict.fromkeys([*own, *named]))


def _troubles(
    keys: Iterable[KeyRestored], mints: Sequence[wallet.Restored], jobs: dict[str, JobsRestored], orders: OrdersRestored
) -> Iterable[str]:  # fmt: skip
    for key in keys:
        if key.trouble:
            yield f"the key of {key.name}: {key.trouble}"
    if not mints:
        yield "no mint is known, so no coins were looked for: name them, `tradepost restore --mint URL`"
    for mint in mints:
        if mint.trouble:
            yield f"{mint.mint}: {mint.trouble}; then run `tradepost restore` again"
        if mint.pending_sat:
            yield (
                f"{mint.mint}: {mint.pending_sat} sat are in a payment under way; run `tradepost restore` again when "
                "it has ended, for what comes back of it"
            )
        if mint.unproven:
            yield f"{mint.mint}: {mint.unproven} signatures are not by its published keys: ask its operator"
    for name, told in jobs.items():
        if told.unknown:
            yield (
                f"{name}: {told.unknown} jobs were under way whose requests the relays no longer have; whoever paid "
                "for one takes back what was not redeemed, and may ask you for the rest"
            )
    if orders.unreadable:
        yield f"{orders.unreadable} records of orders could not be read: they are of another release"
