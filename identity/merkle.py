"""An append-only Merkle log: hashing and proofs of RFC 9162 (section 2.1, the same as RFC 6962's) with SHA-256. Pure.

Who appends holds no more than the frontier, a hash for each power of two in the size: a kilobyte at 2^32 leaves. Who
proves looks hashes up by place: `node(level, number)` is the hash of the complete subtree over the leaves from
`number << level` on, `1 << level` of them; each of these is known once its last leaf is there, and never changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

SIZE_MAX: Final = 2**32
EMPTY_ROOT: Final = sha256(b"").digest()
HASH_BYTES: Final = 32

Node = Callable[[int, int], bytes]


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, which no hash of two hashes can be mistaken for."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """What appending needs to know of a log: `peaks` are its complete subtrees, the smallest first, None for none."""

    size: int = 0
    peaks: tuple[bytes | None, ...] = ()

    def extend(self, leaves: Sequence[bytes]) -> tuple["Frontier", list[tuple[int, int, list[bytes]]]]:
        """The log with these hashes of leaves appended, and the complete subtrees that this adds.

        The latter as runs (level, number of the first, hashes), the leaves' own among them. Raises `ValueError` for a
        log of more than 2^32 leaves.
        """
        size = self.size + len(leaves)
        if size > SIZE_MAX:
            raise ValueError(f"a log holds at most {SIZE_MAX} leaves; begin another one")
        peaks, runs, row = [], [], list(leaves)
        for level in range(size.bit_length()):
            first = self.size >> level
            if row:
                runs.append((level, first, row))
            peak = self.peaks[level] if level < len(self.peaks) else None
            whole = [peak, *row] if peak is not None else row
            peaks.append(whole[-1] if len(whole) % 2 else None)
            pairs = iter(whole)
            row = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
        return Frontier(size, tuple(peaks)), runs

    @property
    def root(self) -> bytes:
        """The root of the log."""
        root: bytes | None = None
        for peak in self.peaks:
            if peak is not None:
                root = peak if root is None else node_hash(peak, root)
        return EMPTY_ROOT if root is None else root


def root_of(size: int, node: Node) -> bytes:
    """The root over the first `size` leaves."""
    return _over(0, size, node) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that leaf `index` is in the log of that size (RFC 9162, 2.1.3.1). Raises `ValueError` if it is not."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a log of {size}")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_over(middle, end, node))
            end = middle
        else:
            path.append(_over(begin, middle, node))
            begin = middle
    return path[::-1]


def prove_consistency(old_size: int, size: int, node: Node) -> list[bytes]:
    """The proof that a log of `old_size` grew into that of `size` (RFC 9162, 2.1.4.1). Raises `ValueError`."""
    if not 0 < old_size <= size:
        raise ValueError(f"a log of {size} leaves did not grow from one of {old_size}")
    path, begin, end = [], 0, size
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(_over(middle, end, node))
            end = middle
        else:
            path.append(_over(begin, middle, node))
            begin = middle
    return [*([_over(begin, end, node)] if begin else []), *path[::-1]]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the hash of a leaf is at `index` under this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= SIZE_MAX or not _are_hashes(leaf, *path):
        return False
    found = _climb(index, size - 1, path, leaf, leaf)
    return found is not None and found[1] == root


def verify_consistency(old_size: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> bool:
    """Whether the log of `old_size` with that root is the beginning of the other (RFC 9162, 2.1.4.2)."""
    if not 0 < old_size <= size <= SIZE_MAX or not _are_hashes(*path):
        return False
    if old_size == size:
        return not path and old_root == root
    is_complete = old_size & (old_size - 1) == 0
    first, *rest = [old_root, *path] if is_complete else path or [b""]
    here, last = old_size - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    return _climb(here, last, rest, first, first) == (old_root, root)


def _climb(here: int, last: int, path: Sequence[bytes], old: bytes, new: bytes) -> tuple[bytes, bytes] | None:
    """The roots that a proof leads to from place `here` of `last`, of what is to the left, and of all."""
    for sibling in path:
        if last == 0:
            return None
        if here & 1 or here == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        here, last = here >> 1, last >> 1
    return (old, new) if last == 0 else None


def _are_hashes(*found: bytes) -> bool:
    return all(len(one) == HASH_BYTES for one in found)


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def _over(begin: int, end: int, node: Node) -> bytes:
    """The hash over the leaves from `begin` to `end`; `begin` is where a subtree at least as wide begins."""
    width = end - begin
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        return node(level, begin >> level)
    middle = begin + _split(width)
    return node_hash(_over(begin, middle, node), _over(middle, end, node))
