"""An append-only Merkle log: hashing and proofs of RFC 9162 (section 2.1, the same as RFC 6962's) with SHA-256. Pure.

Who appends holds only the frontier, a hash for each power of two in the size: a kilobyte at 2^32 leaves. Who proves
looks hashes up by place: `node(level, number)` is that of the complete subtree over the `1 << level` leaves from
`number << level` on, which is known once its last leaf is there, and never changes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import Final

SIZE_MAX: Final = 2**32
EMPTY_ROOT: Final = sha256(b"").digest()
HASH_BYTES: Final = 32

Node = Callable[[int, int], bytes]


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, which no hash of two hashes can be mistaken for."""
    return sha256(b"\x00" + leaf).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    """`leaf_hash` of each."""
    return _hashes(b"\x00", leaves)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """What appending needs to know of a log: `peaks` are its complete subtrees, the smallest first, None for none."""

    size: int = 0
    peaks: tuple[bytes | None, ...] = ()

    def extend(self, leaves: Sequence[bytes]) -> tuple["Frontier", list[tuple[int, int, list[bytes]]]]:
        """The log with these hashes of leaves appended, and the complete subtrees that this adds, the leaves' own too:
        runs (level, number of the first, hashes) from level 0 up. Raises `ValueError` for more than 2^32 leaves.
        """
        size, peaks, row = self.size + len(leaves), list(self.peaks), list(leaves)
        if size > SIZE_MAX:
            raise ValueError(f"a log holds at most {SIZE_MAX} leaves; begin another one")
        runs: list[tuple[int, int, list[bytes]]] = []
        while row:
            level = len(runs)
            runs.append((level, self.size >> level, row))
            whole = [*filter(None, peaks[level : level + 1]), *row]
            peaks[level : level + 1] = [whole[-1] if len(whole) % 2 else None]
            row = _hashes(b"\x01", map(bytes.__add__, whole[::2], whole[1::2]))
        return Frontier(size, tuple(peaks)), runs

    @property
    def root(self) -> bytes:
        """The root of the log."""
        peaks = [peak for peak in self.peaks if peak is not None]
        return reduce(lambda right, left: node_hash(left, right), peaks) if peaks else EMPTY_ROOT


def root_of(size: int, node: Node) -> bytes:
    """The root over the first `size` leaves."""
    return _over(0, size, node) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that leaf `index` is in the log of that size (RFC 9162, 2.1.3.1). Raises `ValueError` if it is not."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a log of {size}")
    return _descend(index, size, node, to_leaf=True)[1]


def prove_consistency(old_size: int, size: int, node: Node) -> list[bytes]:
    """The proof that a log of `old_size` grew into that of `size` (RFC 9162, 2.1.4.1). Raises `ValueError`."""
    if not 0 < old_size <= size:
        raise ValueError(f"a log of {size} leaves did not grow from one of {old_size}")
    begin, path = _descend(old_size - 1, size, node, to_leaf=False)
    return [_over(begin, old_size, node), *path] if begin else path


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the hash of a leaf is at `index` under this root (RFC 9162, 2.1.3.2), which does not tell its size."""
    found = _climb(index, size - 1, path, leaf) if 0 <= index < size <= SIZE_MAX else None
    return found is not None and found[1] == root


def verify_consistency(old_size: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> bool:
    """Whether the log of `old_size` with that root is the beginning of the other (RFC 9162, 2.1.4.2)."""
    if not 0 < old_size <= size <= SIZE_MAX:
        return False
    if old_size == size:
        return not path and old_root == root
    first, *rest = [old_root, *path] if old_size & (old_size - 1) == 0 else path or [b""]
    here, last = old_size - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    return _climb(here, last, rest, first) == (old_root, root)


def _hashes(prefix: bytes, texts: Iterable[bytes]) -> list[bytes]:
    """The hashes of texts behind a prefix. It is hashed once and copied, a tenth quicker than to begin each anew."""
    begun, hashes = sha256(prefix), []
    for text in texts:
        one = begun.copy()
        one.update(text)
        hashes.append(one.digest())
    return hashes


def _climb(here: int, last: int, path: Sequence[bytes], start: bytes) -> tuple[bytes, bytes] | None:
    """The roots that a proof leads to from place `here` of `last`, of what is to the left, and of all."""
    old = new = start
    for sibling in path:
        if last == 0 or len(sibling) != HASH_BYTES:
            return None
        if here & 1 or here == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        here, last = here >> 1, last >> 1
    return (old, new) if last == 0 and len(start) == HASH_BYTES else None


def _descend(leaf: int, size: int, node: Node, *, to_leaf: bool) -> tuple[int, list[bytes]]:
    """Where the leaf is, or else where the largest subtree begins that ends with it; and what is beside the way up."""
    path, begin, end = [], 0, size
    while end - begin > 1 and (to_leaf or end != leaf + 1):
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if leaf < middle:
            beside, end = (middle, end), middle
        else:
            beside, begin = (begin, middle), middle
        path.append(_over(*beside, node))
    return begin, path[::-1]


def _over(begin: int, end: int, node: Node) -> bytes:
    """The hash over the leaves from `begin` to `end`; `begin` is where a subtree at least as wide begins."""
    level = (end - begin).bit_length() - 1
    left, middle = node(level, begin >> level), begin + (1 << level)
    return left if middle == end else node_hash(left, _over(middle, end, node))
