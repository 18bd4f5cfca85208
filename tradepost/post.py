"""Opens one post: its folder, keys, database, relays and wallet, in this order, and closes them in reverse."""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog

from dvm import Post, ProviderLimits
from dvm.reputation.keys import next_key
from identity import SecretKey, read_key_file, write_key_file
from identity.rotation import KEYS_MAX
from relay_bridge import Connect, Fetcher, Inbox, Mailboxes, Outbox, RelayPool, RelayRecords
from relay_bridge.timing import within
from store import Clock, Database, Migration, SystemClock, load_migrations
from store.backup import back_up, is_of_earlier_release
from tradepost.errors import ConfigError, PostBusy
from tradepost.facade.money.queries_transfers import uncredited_sat
from tradepost.rails import open_lightning
from tradepost.settings import Settings, make_private
from tradepost.sweeping import invoices_of
from wallet import HttpTransport, InvalidSeed, MintTransport, Seed, Wallet
from wallet.rails import Lightning
from wallet.sweep import GetInvoice, sweep

FLUSH_SECONDS_MAX = 5.0
RECOVER_SECONDS_MAX = 10.0
RECOVER_EVERY_SECONDS = 60.0
STALE = "stale"  # a file in the folder of a post that came from a backup and has not caught up

log = structlog.get_logger(__name__)


def all_migrations() -> list[Migration]:
    """The whole schema of a post."""
    packages = ("identity", "relay_bridge", "wallet", "dvm", "tradepost")
    return [step for package in packages for step in load_migrations(package)]


@asynccontextmanager
async def open_post(
    settings: Settings,
    *,
    clock: Clock | None = None,
    connect: Connect | None = None,
    transport: Callable[[str], MintTransport] = HttpTransport,
    catching_up: bool = False,
) -> AsyncIterator[Post]:
    """Open the post of `settings`; made new if it is not there yet. Money of an earlier process is looked after.

    `catching_up`: also one that came from a backup and does not know what happened since. Raises `PostBusy` if another
    process has it open, `ConfigError` if there are no relays.
    """
    if not settings.relays:
        raise ConfigError("no relays: name some in tradepost.yaml or in TRADEPOST_RELAYS")
    clock = clock or SystemClock()
    with _only_process(settings.data, catching_up=catching_up):
        seed = read_seed(settings)
        async with (
            await open_database(settings) as db,
            RelayPool(
                settings.relays, clock=clock, connect=connect, allow_private=settings.allow_private_relays
            ) as pool,
            RelayRecords(db, pool, clock),
            Outbox(db, pool, clock) as outbox,
            Inbox(db, pool, clock) as inbox,
            Mailboxes(db, pool, outbox, clock) as mailboxes,
            Wallet.open(
                db, seed, clock=clock, mints=settings.mints, transport=transport, caps=settings.caps,
                uncredited=uncredited_sat,
            ) as wallet,
            open_lightning(settings, db, wallet, clock, connect=connect) as lightning,
        ):  # fmt: skip
            recovered = asyncio.Event()
            fetcher = Fetcher(allow_private=settings.allow_private_urls)
            get_invoice = settings.sweep_to and invoices_of(settings.sweep_to, fetcher, settings)
            recovering = asyncio.create_task(
                _keep_recovering(wallet, lightning, clock, recovered, get_invoice or None)
            )
            try:
                # Change still at a mint is missed by the next payment: wait for it, but not for a mint that hangs.
                with suppress(TimeoutError):
                    await within(clock, RECOVER_SECONDS_MAX, recovered.wait())
                yield Post(
                    db=db, clock=clock, pool=pool, inbox=inbox, outbox=outbox, wallet=wallet, seed=seed,
                    lightning=lightning, fetcher=fetcher, mailboxes=mailboxes,
                )  # fmt: skip
                await outbox.flush(FLUSH_SECONDS_MAX)
            finally:
                recovering.cancel()
                await asyncio.wait([recovering])


async def _keep_recovering(
    wallet: Wallet,
    lightning: Lightning,
    clock: Clock,
    recovered: asyncio.Event,
    get_invoice: GetInvoice | None,
) -> None:
    """Settle what an earlier process left, now and when its mint is back; claim invoices that were paid meanwhile.

    Then send to `get_invoice`'s wallet what is too much at a mint.
    """
    while True:
        try:
            await wallet.recover()
            recovered.set()  # payments by Lightning hold back no coins, and a wallet that is away takes its time
            await lightning.recover()
            if get_invoice is not None:
                await sweep(wallet, get_invoice)
        except Exception:  # a full disk, say; the money is still to be looked after when there is room again
            log.exception("recovery_failed")
        recovered.set()
        await clock.sleep(RECOVER_EVERY_SECONDS)


@asynccontextmanager
async def open_wallet(settings: Settings) -> AsyncIterator[Wallet]:
    """Only the money of a post, for moving it; what an earlier process left open is settled first.

    Raises `PostBusy` if another process has the post open.
    """
    with _only_process(settings.data):
        async with await open_database(settings) as db, wallet_on(settings, db) as wallet:
            await wallet.recover()
            yield wallet


@asynccontextmanager
async def open_rails(settings: Settings) -> AsyncIterator[Lightning]:
    """Only the Lightning of a post; what an earlier process left is settled first. Raises `PostBusy`, `ConfigError`."""
    with _only_process(settings.data):
        async with (
            await open_database(settings) as db,
            wallet_on(settings, db) as wallet,
            open_lightning(settings, db, wallet, SystemClock()) as lightning,
        ):
            await wallet.recover()
            await lightning.recover()
            yield lightning


async def open_database(settings: Settings) -> Database:
    """The post's database, made new if it is not there yet, copied first if it is of an earlier release."""
    make_private(settings.data)
    await asyncio.to_thread(back_up, settings.database, all_migrations())
    return await Database.open(settings.database, all_migrations())


@asynccontextmanager
async def read_database(settings: Settings) -> AsyncIterator[Database]:
    """The database for who only looks, beside whatever process has the post open; an empty one if there is none yet.

    One of an earlier release is left alone, since a process of that release may be at work on it: raises `ConfigError`.
    """
    if not settings.database.exists():
        with tempfile.TemporaryDirectory() as empty:
            async with await open_database(settings.model_copy(update={"data": Path(empty)})) as db:
                yield db
        return
    if await asyncio.to_thread(is_of_earlier_release, settings.database, all_migrations()):
        raise ConfigError(
            f"{settings.database} is of an earlier release: end what runs of that one, then `tradepost settle` or "
            "`tradepost up` once, which keeps a copy and upgrades it"
        )
    async with await open_database(settings) as db:
        yield db


def wallet_on(
    settings: Settings, db: Database, *, transport: Callable[[str], MintTransport] = HttpTransport
) -> Wallet:
    """The post's wallet, for reading; whoever moves money opens the post or `open_wallet`.

    Where there is no post yet, it is nobody's, and makes no files.
    """
    seed = read_seed(settings) if settings.database.exists() else Seed.generate()
    return Wallet.open(
        db, seed, clock=SystemClock(), mints=settings.mints, transport=transport, caps=settings.caps,
        uncredited=uncredited_sat,
    )  # fmt: skip


def limits_of(settings: Settings, agent: str) -> ProviderLimits:
    """The limits an operator may set for the agent of that short name."""
    return ProviderLimits(
        fee_bps=settings.agent_fee_bps.get(agent, settings.fee_bps),
        job_seconds_max=settings.job_seconds_max,
        concurrent_jobs_max=settings.concurrent_jobs_max,
        queue_jobs_max=settings.queue_jobs_max,
        customer_requests_per_minute_max=settings.customer_requests_per_minute_max,
        stranger_requests_per_minute_max=settings.stranger_requests_per_minute_max,
        strangers_requests_per_minute_max=settings.strangers_requests_per_minute_max,
        stranger_pow_bits=settings.stranger_pow_bits,
        stranger_sat_min=settings.stranger_sat_min,
        blocked=settings.blocked,
        allowed=settings.allowed,
        offer_seconds=settings.offer_seconds,
        credit_msat_max=settings.credit_msat_max,
        reveal_msat_max=settings.reveal_msat_max,
        locktime_seconds=settings.locktime_seconds,
        arbiters=settings.arbiters,
        review_seconds=settings.review_seconds,
        dispute_seconds=settings.dispute_seconds,
        root_seconds=settings.root_seconds,
    )


def own_key(settings: Settings, name: str) -> SecretKey:
    """The key of that name; derived from the seed and stored at first use, so that the words bring it back.

    Raises `KeyFileError`, `ConfigError` if it is under a password or in a remote signer: see `tradepost.secrets`.
    """
    path = settings.key_file(name)
    if path.exists():
        stored = read_key_file(path)
        if isinstance(stored, SecretKey):
            return stored
        raise ConfigError(f"{path} is under a password, or with a remote signer: this needs a bare key")
    make_private(path.parent)
    key = read_seed(settings).identity(name)
    write_key_file(path, key)
    return key


def is_of_words(settings: Settings, name: str, public_key: str) -> bool:
    """Whether the post's words give the key of that name, so that they bring it back (and whoever has them, has it).

    Keys that it was handed on to count too, as long as the first one of them is the post's, or among the retired.
    """
    if not settings.seed_file.exists():
        return False
    seed = read_seed(settings)
    first = seed.identity(name).public_key
    retired = [path.stem for path in settings.retired_key_file("").parent.glob("*.nsec")]
    return public_key == first or any(
        next_key(seed, log, number).public_key == public_key
        for log in (first, *retired)
        for number in range(1, KEYS_MAX)
    )


def read_seed(settings: Settings) -> Seed:
    """The wallet's seed; drawn and stored (mode 0600, on disk before it is used) at first use. Raises `ConfigError`."""
    path = settings.seed_file
    if not path.exists():
        make_private(settings.data)
        _write_once(path, Seed.generate().words + "\n")
    if path.stat().st_mode & 0o077:
        raise ConfigError(
            f"{path} is open to other users, and whoever reads it takes your coins: chmod 600 {path}"
        )
    try:
        return Seed.from_words(path.read_text(encoding="utf-8"))
    except (InvalidSeed, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} does not hold the wallet's words: {error}; put your copy of them there"
        ) from None


def put_seed(settings: Settings, seed: Seed) -> None:
    """Store words that were kept elsewhere. Raises `ConfigError` if the post has others already."""
    make_private(settings.data)
    _write_once(settings.seed_file, seed.words + "\n")
    if read_seed(settings).words != seed.words:
        raise ConfigError(
            f"{settings.seed_file} holds other words, and they are worth as much: nothing was changed. Restore into a "
            "folder of its own (TRADEPOST_HOME or TRADEPOST_DATA), then move the coins with `tradepost wallet send`"
        )


async def reach(pool: RelayPool) -> str:
    """Wait until one relay is connected or all were tried; returns why none can be reached, "" if one is."""
    for tried in asyncio.as_completed([pool.relay(url).tried() for url in pool.urls]):
        if await tried:
            return ""
    reasons = "; ".join(f"{relay.url}: {relay.last_error}" for relay in pool.health().values())
    return f"no relay can be reached ({reasons})"


def _write_once(path: Path, text: str) -> None:
    """Make the file with all of `text` in it, on disk; if another process was faster, its file stays."""
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=f".{path.name}", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the name is on disk too
    finally:
        os.close(folder)


@contextmanager
def _only_process(folder: Path, *, catching_up: bool = False) -> Iterator[None]:
    make_private(folder)
    if (folder / STALE).exists() and not catching_up:
        raise ConfigError(
            f"the post in {folder} is of a backup, and has not caught up with what happened since, so nothing may be "
            "spent or done from it: run `tradepost restore`"
        )
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise PostBusy(
                f"the post in {folder} is open in another process (pid {holder or 'unknown'}); "
                "stop that one first, or use another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
