"""Append-only Merkle logs on disk: `identity.merkle` over the tables of `migrations/`.

An append is part of its caller's transaction, so that what the log tells of and the leaf are there together or not at
all. Nothing is kept in memory between two calls but, while one appends, the frontier.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from identity import merkle
from identity.merkle import Frontier, Node
from store import Database, Transaction

LEAVES_AT_ONCE_MAX: Final = 1000

Source = Database | Transaction


async def append(tx: Transaction, log: str, leaves: Sequence[str]) -> Frontier:
    """Append leaves to a log, which begins with the first; returns what it is then."""
    before = await read_frontier(tx, log)
    frontier, runs = before.extend(merkle.leaf_hashes(map(str.encode, leaves)))
    await tx.execute_many(
        "INSERT INTO merkle_leaves (log, number, leaf) VALUES (?, ?, ?)",
        [(log, number, leaf) for number, leaf in enumerate(leaves, before.size)],
    )
    await tx.execute_many(
        "INSERT INTO merkle_nodes (log, place, hash) VALUES (?, ?, ?)",
        [
            (log, place, found.hex())
            for level, first, row in runs
            for place, found in zip(count(_place(level, first), 2 << level), row, strict=False)
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


async def read_leaves(source: Source, log: str, first: int, count_max: int = LEAVES_AT_ONCE_MAX) -> list[str]:
    """So many leaves of a log from number `first` on, or as many as there are; at most a thousand."""
    rows = await source.all(
        "SELECT leaf FROM merkle_leaves WHERE log = ? AND number >= ? ORDER BY number LIMIT ?",
        log, first, min(count_max, LEAVES_AT_ONCE_MAX),
    )  # fmt: skip
    return [row["leaf"] for row in rows]


async def read_root(source: Source, log: str, size: int) -> bytes:
    """The root over the first `size` leaves. Raises `ValueError` if there are fewer."""
    return (await _with_nodes(source, log, size, lambda node: [merkle.root_of(size, node)]))[0]


async def prove_inclusion(source: Source, log: str, number: int, size: int) -> list[bytes]:
    """The proof that a leaf is in the log of that size. Raises `ValueError` if it is not."""
    return await _with_nodes(source, log, size, lambda node: merkle.prove_inclusion(number, size, node))


async def prove_consistency(source: Source, log: str, old_size: int, size: int) -> list[bytes]:
    """The proof that the log of `old_size` grew into that of `size`. Raises `ValueError` if it did not."""
    return await _with_nodes(source, log, size, lambda node: merkle.prove_consistency(old_size, size, node))


async def _with_nodes(
    source: Source, log: str, size: int, compute: Callable[[Node], list[bytes]]
) -> list[bytes]:
    """Compute something twice: to learn which nodes it looks at, sixty at most, and then with these, read at once."""
    if size > (known := (await read_frontier(source, log)).size):
        raise ValueError(f"the log is not as long as that: it has {known} leaves, not {size}")
    places: list[int] = []

    def note(level: int, number: int) -> bytes:
        places.append(_place(level, number))
        return b""

    compute(note)
    marks = ", ".join("?" * len(places)) or "NULL"
    rows = await source.all(
        f"SELECT place, hash FROM merkle_nodes WHERE log = ? AND place IN ({marks})",  # noqa: S608 - only marks
        log, *places,
    )  # fmt: skip
    found = {row["place"]: bytes.fromhex(row["hash"]) for row in rows}
    return compute(lambda level, number: found[_place(level, number)])


def _place(level: int, number: int) -> int:
    """One number for a node: leaves have the even ones, and a subtree's top stands in the middle of its leaves."""
    return (2 * number + 1 << level) - 1
