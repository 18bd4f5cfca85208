"""The log's hashing and proofs, against published vectors, the RFC's own definition, and whoever bends a proof."""

import json
import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from identity.merkle import (
    SIZE_MAX,
    Frontier,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "merkle.json").read_text())
EVERY_SIZE = 300


def definition(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, as it is written there: of hashes of leaves."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node_hash(definition(leaves[:middle]), definition(leaves[middle:]))


class Log:
    """A log in memory, filled by a few leaves at a time."""

    def __init__(self, leaves: Sequence[bytes], chance: random.Random) -> None:
        self.leaves = leaves
        self.frontier = Frontier()
        self.nodes: dict[tuple[int, int], bytes] = {}
        left = list(leaves)
        while left:
            count = chance.randint(1, 7)
            self.frontier, runs = self.frontier.extend(left[:count])
            del left[:count]
            for level, first, hashes in runs:
                new = {(level, first + number): found for number, found in enumerate(hashes)}
                assert not new.keys() & self.nodes.keys()
                self.nodes |= new

    def node(self, level: int, number: int) -> bytes:
        return self.nodes[level, number]


@pytest.fixture(scope="module")
def log() -> Log:
    return Log([leaf_hash(number.to_bytes(2, "big")) for number in range(EVERY_SIZE)], random.Random(6))


# -- published vectors


def test_the_published_roots() -> None:
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
    assert [Frontier().extend(leaves[:size])[0].root.hex() for size in range(1, 9)] == VECTORS["roots"]


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda vector: vector["name"])
def test_the_published_proofs_of_inclusion(vector: dict[str, Any]) -> None:
    path = [bytes.fromhex(step) for step in vector["path"]]
    leaf, root = bytes.fromhex(vector["leaf"]), bytes.fromhex(vector["root"])
    assert verify_inclusion(leaf, vector["index"], vector["size"], path, root) is vector["valid"]


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda vector: vector["name"])
def test_the_published_proofs_of_consistency(vector: dict[str, Any]) -> None:
    path = [bytes.fromhex(step) for step in vector["path"]]
    old_root, root = bytes.fromhex(vector["old_root"]), bytes.fromhex(vector["root"])
    assert verify_consistency(vector["old_size"], vector["size"], path, old_root, root) is vector["valid"]


# -- every size, every proof


def test_every_root_is_that_of_the_definition(log: Log) -> None:
    for size in range(EVERY_SIZE + 1):
        expected = definition(log.leaves[:size])
        assert Frontier().extend(log.leaves[:size])[0].root == expected
        assert root_of(size, log.node) == expected
    assert log.frontier.root == definition(log.leaves)


def test_every_leaf_is_proved_in_every_size(log: Log) -> None:
    for size in range(1, EVERY_SIZE + 1):
        root = root_of(size, log.node)
        for index in range(size):
            path = prove_inclusion(index, size, log.node)
            assert verify_inclusion(log.leaves[index], index, size, path, root)


def test_every_size_is_proved_to_have_grown_from_every_smaller_one(log: Log) -> None:
    roots = [root_of(size, log.node) for size in range(EVERY_SIZE + 1)]
    for size in range(1, EVERY_SIZE + 1):
        for old_size in range(1, size + 1):
            path = prove_consistency(old_size, size, log.node)
            assert verify_consistency(old_size, size, path, roots[old_size], roots[size])


@pytest.mark.parametrize("seed", range(4))
def test_large_logs(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randint(20_000, 40_000)
    log = Log([chance.randbytes(32) for _ in range(size)], chance)
    root = log.frontier.root
    assert root == definition(log.leaves)
    for _ in range(200):
        index, old_size = chance.randrange(size), chance.randint(1, size)
        assert verify_inclusion(log.leaves[index], index, size, prove_inclusion(index, size, log.node), root)
        path = prove_consistency(old_size, size, log.node)
        assert verify_consistency(old_size, size, path, root_of(old_size, log.node), root)


# -- who bends a proof


def bits_of(value: bytes) -> list[bytes]:
    """All that differ from it by one bit."""
    number = int.from_bytes(value, "big")
    return [(number ^ (1 << bit)).to_bytes(len(value), "big") for bit in range(8 * len(value))]


@pytest.mark.parametrize(
    ("index", "size"), [(0, 1), (0, 2), (2, 3), (3, 5), (6, 7), (4, 8), (19, 33), (0, 33)]
)
def test_no_bit_of_a_proof_of_inclusion_may_differ(log: Log, index: int, size: int) -> None:
    root, path, leaf = root_of(size, log.node), prove_inclusion(index, size, log.node), log.leaves[index]
    assert verify_inclusion(leaf, index, size, path, root)
    assert not any(verify_inclusion(bent, index, size, path, root) for bent in bits_of(leaf))
    assert not any(verify_inclusion(leaf, index, size, path, bent) for bent in bits_of(root))
    for place, step in enumerate(path):
        for bent in bits_of(step):
            assert not verify_inclusion(leaf, index, size, [*path[:place], bent, *path[place + 1 :]], root)
    for wrong in ([*path, root], [root, *path], path[1:] if path else [leaf], path[:-1] if path else [root]):
        assert not verify_inclusion(leaf, index, size, wrong, root)
    for other in set(range(-1, size + 2)) - {index}:
        assert not verify_inclusion(leaf, other, size, path, root)


@pytest.mark.parametrize(
    ("old_size", "size"), [(1, 2), (1, 1), (2, 3), (3, 5), (4, 8), (6, 7), (7, 33), (32, 33)]
)
def test_no_bit_of_a_proof_of_consistency_may_differ(log: Log, old_size: int, size: int) -> None:
    old_root, root = root_of(old_size, log.node), root_of(size, log.node)
    path = prove_consistency(old_size, size, log.node)
    assert verify_consistency(old_size, size, path, old_root, root)
    assert not any(verify_consistency(old_size, size, path, bent, root) for bent in bits_of(old_root))
    assert not any(verify_consistency(old_size, size, path, old_root, bent) for bent in bits_of(root))
    for place, step in enumerate(path):
        for bent in bits_of(step):
            wrong = [*path[:place], bent, *path[place + 1 :]]
            assert not verify_consistency(old_size, size, wrong, old_root, root)
    assert not verify_consistency(old_size, size, [*path, root], old_root, root)
    assert not path or not verify_consistency(old_size, size, path[:-1], old_root, root)
    for other in {0, size + 1, old_size + 1, -1} - {old_size}:
        assert not verify_consistency(other, size, path, old_root, root) or other == old_size


def test_what_cannot_be_proved(log: Log) -> None:
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            prove_inclusion(index, size, log.node)
    for old_size, size in ((0, 5), (6, 5), (-1, 5)):
        with pytest.raises(ValueError, match="did not grow"):
            prove_consistency(old_size, size, log.node)


def test_the_frontier_of_the_largest_log_is_a_kilobyte() -> None:
    full = Frontier(SIZE_MAX - 1, tuple(bytes([level]) * 32 for level in range(32)))
    assert sum(len(peak) for peak in full.peaks if peak) == 1024
    last, runs = full.extend([leaf_hash(b"")])
    assert last.size == SIZE_MAX
    assert [(level, first) for level, first, _hashes in runs] == [
        (level, (SIZE_MAX - 1) >> level) for level in range(33)
    ]
    with pytest.raises(ValueError, match="at most"):
        last.extend([leaf_hash(b"")])
