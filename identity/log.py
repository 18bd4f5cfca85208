"""Append-only Merkle logs on disk: `identity.merkle` over the tables of `migrations/`.

An append is part of its caller's transaction, so that what the log tells of and the leaf are there together or not at
all. Nothing is kept in memory between two calls but, while one appends, the frontier.
"""

from collections.abc import Callable, Sequence
from typing import Final

from identity import merkle
from identity.merkle import Frontier, Node
from store import Database, Transaction

LEAVES_AT_ONCE_MAX: Final = 1000

Source = Database | Transaction


async def append(tx: Transaction, log: str, leaves: Sequence[str]) -> Frontier:
    """Append leaves to a log, which begins with the first; returns what it is then."""
    frontier = await read_frontier(tx, log)
    first = frontier.size
    frontier, runs = frontier.extend([merkle.leaf_hash(leaf.encode()) for leaf in leaves])
    await tx.execute_many(
        "INSERT INTO merkle_leaves (log, number, leaf) VALUES (?, ?, ?)",
        [(log, first + place, leaf) for place, leaf in enumerate(leaves)],
    )
    await tx.execute_many(
        "INSERT INTO merkle_nodes (log, level, number, hash) VALUES (?, ?, ?, ?)",
        [
            (log, level, number + place, found.hex())
            for level, number, row in runs
            for place, found in enumerate(row)
        ],
    )
    await tx.execute(
        "INSERT INTO merkle_logs (log, size, peaks) VALUES (?, ?, ?)"
        " ON CONFLICT (log) DO UPDATE SET size = excluded.size, peaks = excluded.peaks",
        log, frontier.size, " ".join(peak.hex() if peak else "-" for peak in frontier.peaks),
    )  # fmt: skip
    return frontier


async def read_frontier(source: Source, log: str) -> Frontier:
    """What a log is now: its size and root."""
    row = await source.one("SELECT size, peaks FROM merkle_logs WHERE log = ?", log)
    if row is None:
        return Frontier()
    peaks = (None if peak == "-" else bytes.fromhex(peak) for peak in row["peaks"].split())
    return Frontier(row["size"], tuple(peaks))


async def read_leaves(source: Source, log: str, first: int, count: int = LEAVES_AT_ONCE_MAX) -> list[str]:
    """So many leaves of a log from number `first` on, or as many as there are; at most a thousand."""
    rows = await source.all(
        "SELECT leaf FROM merkle_leaves WHERE log = ? AND number >= ? ORDER BY number LIMIT ?",
        log, first, min(count, LEAVES_AT_ONCE_MAX),
    )  # fmt: skip
    return [row["leaf"] for row in rows]


async def read_root(source: Source, log: str, size: int) -> bytes:
    """The root over the first `size` leaves."""
    return (await _with_nodes(source, log, lambda node: [merkle.root_of(size, node)]))[0]


async def prove_inclusion(source: Source, log: str, number: int, size: int) -> list[bytes]:
    """The proof that a leaf is in the log of that size. Raises `ValueError` if it is not."""
    return await _with_nodes(source, log, lambda node: merkle.prove_inclusion(number, size, node))


async def prove_consistency(source: Source, log: str, old_size: int, size: int) -> list[bytes]:
    """The proof that the log of `old_size` grew into that of `size`. Raises `ValueError` if it did not."""
    return await _with_nodes(source, log, lambda node: merkle.prove_consistency(old_size, size, node))


async def _with_nodes(source: Source, log: str, compute: Callable[[Node], list[bytes]]) -> list[bytes]:
    """Compute something twice: to learn which nodes it looks at, and then with these, which are read at once."""
    wanted: list[tuple[int, int]] = []

    def note(level: int, number: int) -> bytes:
        wanted.append((level, number))
        return bytes(merkle.HASH_BYTES)

    compute(note)
    found: dict[tuple[int, int], bytes] = {}
    for level, number in wanted:  # some thirty at most
        row = await source.one(
            "SELECT hash FROM merkle_nodes WHERE log = ? AND level = ? AND number = ?", log, level, number
        )
        if row is None:
            raise ValueError("the log is not as long as that")
        found[level, number] = bytes.fromhex(row["hash"])
    return compute(lambda level, number: found[level, number])
