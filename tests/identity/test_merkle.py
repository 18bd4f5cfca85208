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
    leaf_hashes,
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


@pytest.fixture(scope="module")
def published() -> Log:
    return Log(leaf_hashes(bytes.fromhex(leaf) for leaf in VECTORS["leaves"]), random.Random(9))


def test_the_published_roots(published: Log) -> None:
    assert [root_of(size, published.node).hex() for size in range(1, 9)] == VECTORS["roots"]
    assert published.frontier.root.hex() == VECTORS["roots"][-1]


def test_the_published_proofs_are_those_that_we_give(published: Log) -> None:
    given = 0
    for vector in VECTORS["inclusion"] + VECTORS["consistency"]:
        if vector["valid"] and vector["root"] == VECTORS["roots"][min(vector["size"], 8) - 1]:
            path = (
                prove_inclusion(vector["index"], vector["size"], published.node)
                if "leaf" in vector
                else prove_consistency(vector["old_size"], vector["size"], published.node)
            )
            assert [step.hex() for step in path] == vector["path"], vector["name"]
            given += 1
    assert given == 10


def test_the_proofs_that_rfc_9162_spells_out() -> None:
    """Section 2.1.5: seven leaves, and a letter for each hash."""
    example = VECTORS["rfc9162_2.1.5"]
    log = Log(leaf_hashes(f"d{number}".encode() for number in range(7)), random.Random(7))
    letters = {log.node(*place): letter for letter, place in example["nodes"].items()}
    letters[node_hash(log.node(1, 2), log.node(0, 6))] = "l"
    for index, path in example["inclusion"].items():
        assert [letters[step] for step in prove_inclusion(int(index), 7, log.node)] == path
    for old_size, path in example["consistency"].items():
        assert [letters[step] for step in prove_consistency(int(old_size), 7, log.node)] == path


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
    chance = random.Random(1)
    for size in range(1, EVERY_SIZE + 1):
        root = root_of(size, log.node)
        for index in range(size):
            path, leaf = prove_inclusion(index, size, log.node), log.leaves[index]
            assert verify_inclusion(leaf, index, size, path, root)
            leaf, root_, *path = bend([leaf, root, *path], chance)
            assert not verify_inclusion(leaf, index, size, path, root_)


def test_every_size_is_proved_to_have_grown_from_every_smaller_one(log: Log) -> None:
    chance = random.Random(2)
    roots = [root_of(size, log.node) for size in range(EVERY_SIZE + 1)]
    for size in range(1, EVERY_SIZE + 1):
        for old_size in range(1, size + 1):
            path = prove_consistency(old_size, size, log.node)
            assert verify_consistency(old_size, size, path, roots[old_size], roots[size])
            old_root, root, *path = bend([roots[old_size], roots[size], *path], chance)
            assert not verify_consistency(old_size, size, path, old_root, root)


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


@pytest.mark.parametrize("size", [SIZE_MAX, SIZE_MAX - 1, 2**31 + 1, 3_141_592_653])
def test_the_largest_logs(size: int) -> None:
    """All leaves are alike, so that each subtree is known by its level."""
    levels = [leaf_hash(b"alike")]
    for _ in range(32):
        levels.append(node_hash(levels[-1], levels[-1]))
    chance, root = random.Random(size), root_of(size, lambda level, _: levels[level])
    for index in (0, size - 1, *(chance.randrange(size) for _ in range(20))):
        path = prove_inclusion(index, size, lambda level, _: levels[level])
        assert verify_inclusion(levels[0], index, size, path, root)
        assert not verify_inclusion(levels[1], index, size, path, root)
        old_root = root_of(index + 1, lambda level, _: levels[level])
        path = prove_consistency(index + 1, size, lambda level, _: levels[level])
        assert verify_consistency(index + 1, size, path, old_root, root)
        assert not verify_consistency(index + 1, size, path, levels[0], root) or index == 0
    assert not verify_inclusion(levels[0], 0, size + SIZE_MAX, path, root)


# -- who bends a proof


def bend(parts: list[bytes], chance: random.Random) -> list[bytes]:
    """One bit of one of these is another."""
    bent, bit = chance.randrange(len(parts)), 1 << chance.randrange(256)
    return [
        (int.from_bytes(part, "big") ^ bit).to_bytes(32, "big") if number == bent else part
        for number, part in enumerate(parts)
    ]


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


def way(index: int, size: int) -> list[str]:
    """On which sides of a leaf the hashes of its proof are: RFC 9162's PATH."""
    if size == 1:
        return []
    left = 1 << (size - 1).bit_length() - 1
    return [*way(index, left), "right"] if index < left else [*way(index - left, size - left), "left"]


def growth(old_size: int, size: int, is_known: bool = True) -> list[str]:
    """The same of a proof of consistency: RFC 9162's SUBPROOF."""
    if old_size == size:
        return ["known" if is_known else "told"]
    left = 1 << (size - 1).bit_length() - 1
    if old_size <= left:
        return [*growth(old_size, left, is_known), "right"]
    return [*growth(old_size - left, size - left, False), "left"]


def others_than(number: int) -> set[int]:
    """All that differ from it by one bit, its neighbours, and what is below nothing."""
    return {number ^ (1 << bit) for bit in range(34)} | {number + 1, number - 1, -1, -number - 1}


@pytest.mark.parametrize("size", [*range(1, 34), 64, 65, 255, 256, 299])
def test_no_bit_of_an_index_or_a_size_may_differ(log: Log, size: int) -> None:
    """A root does not say its own size: where the way up is the same nobody can tell, and the root's signature must."""
    root = root_of(size, log.node)
    for index in range(size):
        path, leaf = prove_inclusion(index, size, log.node), log.leaves[index]
        for other in others_than(index):
            assert not verify_inclusion(leaf, other, size, path, root)
        for other in others_than(size):
            is_same = index < other <= SIZE_MAX and way(index, other) == way(index, size)
            assert verify_inclusion(leaf, index, other, path, root) is is_same


@pytest.mark.parametrize("size", [*range(1, 34), 64, 65, 255, 256, 299])
def test_no_bit_of_two_sizes_may_differ(log: Log, size: int) -> None:
    root = root_of(size, log.node)
    for old_size in range(1, size):
        path, old_root = prove_consistency(old_size, size, log.node), root_of(old_size, log.node)
        shape = growth(old_size, size)
        for other in others_than(old_size):
            is_same = 0 < other <= size and growth(other, size) == shape
            assert verify_consistency(other, size, path, old_root, root) is is_same
        for other in others_than(size):
            is_same = old_size <= other <= SIZE_MAX and growth(old_size, other) == shape
            assert verify_consistency(old_size, other, path, old_root, root) is is_same


def test_a_hash_of_another_length_is_no_hash(log: Log) -> None:
    """Moved by a byte between two hashes that are hashed together, it would be the same."""
    leaf, sibling, root = log.leaves[0], log.leaves[1], root_of(2, log.node)
    assert verify_inclusion(leaf, 0, 2, [sibling], root)
    assert node_hash(leaf + sibling[:1], sibling[1:]) == root
    assert not verify_inclusion(leaf + sibling[:1], 0, 2, [sibling[1:]], root)
    assert not verify_consistency(1, 2, [sibling[1:]], leaf + sibling[:1], root)


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
