"""One Merkle log, ours or pymerkle's, in memory or on disk: `python -m bench.parts.receipts SIDE FOLDER`.

Answers each line that it is told (a word and numbers, as JSON) with one: what it took, without what had to be prepared.
"""

import asyncio
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import orjson

from identity import log, merkle
from identity.merkle import Frontier
from store import Database, load_migrations

LEAF_BYTES = 32
TOGETHER = 1000
NAME = "ab" * 32


class Side(Protocol):
    """A log that grows. Proofs are of a leaf in all of it, and of its growth since that leaf was the last one."""

    def append(self, leaves: Sequence[bytes]) -> None:
        """Together."""

    def append_each(self, leaves: Sequence[bytes]) -> None:
        """Each by itself; on disk before the next one, or by as many callers at once."""

    def prove(self, numbers: Iterable[int]) -> object:
        """Both proofs of each."""

    def root(self) -> bytes:
        """Of all of it."""


class OursInMemory:
    """The frontier, and beside it all hashes, to prove from."""

    def __init__(self, _folder: Path) -> None:
        self._frontier = Frontier()
        self._rows: list[list[bytes]] = [[] for _ in range(merkle.SIZE_MAX.bit_length())]

    def append(self, leaves: Sequence[bytes]) -> None:
        self._frontier, runs = self._frontier.extend(merkle.leaf_hashes(leaves))
        for level, _, row in runs:
            self._rows[level] += row

    def append_each(self, leaves: Sequence[bytes]) -> None:
        for leaf in leaves:
            self.append([leaf])

    def prove(self, numbers: Iterable[int]) -> list[tuple[list[bytes], list[bytes]]]:
        size = self._frontier.size
        return [
            (
                merkle.prove_inclusion(number, size, self._node),
                merkle.prove_consistency(number + 1, size, self._node),
            )
            for number in numbers
        ]

    def verifications(self, numbers: Iterable[int]) -> list[Callable[[], object]]:
        size, root = self._frontier.size, self.root()
        checks: list[Callable[[], object]] = []
        for number in numbers:
            [(included, grown)] = self.prove([number])
            leaf, old = self._node(0, number), merkle.root_of(number + 1, self._node)
            checks.append(partial(merkle.verify_inclusion, leaf, number, size, included, root))
            checks.append(partial(merkle.verify_consistency, number + 1, size, grown, old, root))
        return checks

    def root(self) -> bytes:
        return self._frontier.root

    def _node(self, level: int, number: int) -> bytes:
        return self._rows[level][number]


class OursOnDisk:
    """The log of an agent, in a database like that of a post."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.Runner()
        migrations = load_migrations("identity")
        self._db = self._loop.run(Database.open(folder / "ours.sqlite", migrations))

    def append(self, leaves: Sequence[bytes]) -> None:
        self._loop.run(self._append([leaf.decode() for leaf in leaves]))

    def append_each(self, leaves: Sequence[bytes]) -> None:
        async def append_all() -> None:
            await asyncio.gather(*(self._append([leaf.decode()]) for leaf in leaves))

        self._loop.run(append_all())

    def prove(self, numbers: Iterable[int]) -> None:
        async def prove_all() -> None:
            size = (await log.read_frontier(self._db, NAME)).size
            for number in numbers:
                await log.prove_inclusion(self._db, NAME, number, size)
                await log.prove_consistency(self._db, NAME, number + 1, size)

        self._loop.run(prove_all())

    def root(self) -> bytes:
        return self._loop.run(log.read_frontier(self._db, NAME)).root

    async def _append(self, leaves: Sequence[str]) -> None:
        async with self._db.transaction() as tx:
            await log.append(tx, NAME, leaves)


class Other:
    """One of pymerkle's trees, as it comes."""

    def __init__(self, folder: Path, *, on_disk: bool) -> None:
        import pymerkle  # noqa: PLC0415 - only this side needs it

        self._tree = pymerkle.SqliteTree(str(folder / "other.sqlite")) if on_disk else pymerkle.InmemoryTree()

    def append(self, leaves: Sequence[bytes]) -> None:
        self._tree.append_entries(leaves)

    def append_each(self, leaves: Sequence[bytes]) -> None:
        for leaf in leaves:
            self._tree.append_entry(leaf)

    def prove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._tree.prove_inclusion(number + 1)
            self._tree.prove_consistency(number + 1)

    def verifications(self, numbers: Iterable[int]) -> list[Callable[[], object]]:
        tree, size = self._tree, self._tree.get_size()
        checks: list[Callable[[], object]] = []
        for number in numbers:
            leaf, old, root = tree.get_leaf(number + 1), tree.get_root(number + 1), tree.get_root()
            included, grown = tree.prove_inclusion(number + 1), tree.prove_consistency(number + 1)
            checks.append(partial(included.verify, leaf, root, number + 1, size))
            checks.append(partial(grown.verify, old, root, number + 1, size))
        return checks

    def root(self) -> bytes:
        root: bytes = self._tree.get_root()
        return root


SIDES: dict[str, Callable[[Path], Side]] = {
    "ours-memory": OursInMemory,
    "ours-disk": OursOnDisk,
    "other-memory": partial(Other, on_disk=False),
    "other-disk": partial(Other, on_disk=True),
}


class Log:
    """A side, and what it takes."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._size = 0

    def answer(self, *told: str | int) -> float | str:
        """What a line asked for."""
        match told:
            case "grow", int(size):
                return self._grow(size)
            case "each", int(count):
                leaves = self._next(count)
                return count / _seconds(lambda: self._side.append_each(leaves))
            case "prove", int(seed), int(count):
                numbers = self._some(seed, count)
                return _seconds(lambda: self._side.prove(numbers)) / count * 1e6
            case "verify", int(seed), int(count):
                assert isinstance(self._side, OursInMemory | Other)  # what is proved from disk is no other
                checks = self._side.verifications(self._some(seed, count))
                return _seconds(lambda: _verify(checks)) / count * 1e6
            case "peak", int(count):
                return self._peak(count)
            case ("root",):
                return self._side.root().hex()
        raise ValueError(f"nothing is called {told}")

    def _grow(self, size: int) -> float:
        """Leaves per second."""
        count, seconds = size - self._size, 0.0
        while self._size < size:
            leaves = self._next(min(TOGETHER, size - self._size))
            seconds += _seconds(partial(self._side.append, leaves))
        return count / seconds

    def _peak(self, count: int) -> float:
        """The most that Python allocated while so many were appended, in bytes."""
        leaves = self._next(count)
        tracemalloc.start()
        self._side.append(leaves)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    def _next(self, count: int) -> list[bytes]:
        numbers = range(self._size, self._size + count)
        self._size += count
        return [b"%0*d" % (LEAF_BYTES, number) for number in numbers]

    def _some(self, seed: int, count: int) -> list[int]:
        chance = random.Random(seed)
        return [chance.randrange(self._size) for _ in range(count)]


def _verify(checks: list[Callable[[], object]]) -> None:
    for check in checks:
        assert check() is not False  # pymerkle raises


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    asked = Log(SIDES[sys.argv[1]](Path(sys.argv[2])))
    print("ready", flush=True)
    for line in sys.stdin:
        print(orjson.dumps(asked.answer(*orjson.loads(line))).decode(), flush=True)
