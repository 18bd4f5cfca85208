"""A receipt's file, before both verifiers: what an honest one shows, and that no other one passes.

The second one is `examples/verify_receipt.py`, which shares no code with the first.
"""

import ast
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from identity import encode_npub, parse_event
from identity.errors import InvalidReceipt
from identity.event import Event
from identity.keys import SecretKey
from identity.receipt_file import (
    FILE_BYTES_MAX,
    LEAVES_MAX,
    FileCheck,
    ProvedLeaf,
    ReceiptFile,
    Verdict,
    check_file,
    make_file,
    parse_file,
)
from identity.receipts import SpentLock, claim_lock, write_leaf
from identity.roots import Head
from tests.identity.receipt_files import (
    AGENT,
    COINS,
    CUSTOMER,
    FIRST_LEAF,
    INVOICED,
    JOB,
    LOCK,
    LOCK_KEY,
    NEXT,
    NOW,
    OTHER_KEY,
    PAID,
    PAID_REVIEW,
    REQUEST,
    RESULT,
    REVIEW,
    THIEF,
    Log,
    answer_to,
    coin,
    log_of,
    offer,
    resigned,
    secret,
    signed,
)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "verify_receipt.py"
ME = AGENT.public_key
CLAIM_OF_ANOTHER = claim_lock(LOCK, THIEF.public_key, REQUEST)
CLAIM_FOR_ANOTHER_JOB = claim_lock(LOCK, ME, RESULT)


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("verify_receipt", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()


def accepts(raw: bytes, agent: str | None = ME) -> bool:
    """Whether our own verifier takes a file."""
    try:
        return check_file(parse_file(raw), NOW, agent).is_good
    except InvalidReceipt:
        return False


def example_accepts(raw: bytes, agent: str | None = ME) -> bool:
    """Whether the example does."""
    try:
        file = json.loads(raw.decode())
        return all(passed is not False for passed, _ in example.check_file(file, agent or "", NOW))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return False


def refused(file: ReceiptFile | bytes, agent: str | None = ME) -> bool:
    """By both; who disagree fail the test."""
    raw = file if isinstance(file, bytes) else file.to_json()
    ours, theirs = accepts(raw, agent), example_accepts(raw, agent)
    assert ours == theirs, "the two verifiers disagree"
    return not ours


def said(check: FileCheck, verdict: Verdict) -> str:
    return "\n".join(one.what for one in check.checks if one.verdict is verdict)


def honest() -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).file(review=review)


def with_review(review: Event, job: Any = JOB) -> ReceiptFile:
    """A file whose agent answers whatever its customer wrote."""
    return log_of(review, job).file(review=review)


# What is honest --------------------------------------------------------------------------------------------------


def test_an_honest_receipt_passes() -> None:
    file = honest()
    assert parse_file(file.to_json()) == file
    assert not refused(file)
    found = check_file(file, NOW, ME)
    assert (found.job, found.answer) == (JOB, answer_to(signed_review(file)))
    assert found.review is not None
    assert found.review.rating == REVIEW.rating
    assert [leaf.number for leaf in file.leaves] == [0, 3, 4]
    assert said(found, Verdict.FAILED) == ""
    unknown = said(found, Verdict.NOT_CHECKED)
    assert "https://mint.test" in unknown
    assert "relay" in unknown


def signed_review(file: ReceiptFile) -> Event:
    assert file.review is not None
    return file.review


def invoiced() -> ReceiptFile:
    return with_review(signed(PAID_REVIEW), INVOICED)


def silent() -> ReceiptFile:
    return log_of().file()


def unanswered() -> ReceiptFile:
    return log_of().file(review=signed(REVIEW))


def unproved() -> ReceiptFile:
    return with_review(signed(replace(REVIEW, evidence=None, offer=None)))


def unseen() -> ReceiptFile:
    coins = (coin(1, secret("01"), signer=None), coin(2, secret("02")))
    return with_review(signed(replace(REVIEW, evidence=SpentLock(COINS.mint, coins))))


def revealed() -> ReceiptFile:
    coins = (coin(4, secret("01", kind="HTLC")),)
    return with_review(signed(replace(REVIEW, evidence=SpentLock(COINS.mint, coins))))


def without_result() -> ReceiptFile:
    return with_review(signed(replace(REVIEW, result_id=None)))


def replaceable() -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).file(review=review, replaceable=True)


def handed_on() -> ReceiptFile:
    return rotated(by_both=True)


def recovered() -> ReceiptFile:
    return rotated(by_both=False)


def rotated(*, by_both: bool) -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).rotate(AGENT, NEXT, by_both=by_both).add(JOB).file(review=review, by=NEXT)


def claimed_by_a_later_key() -> ReceiptFile:
    review = signed(replace(REVIEW, offer=None))
    job = structs.replace(JOB, lock_sig=claim_lock(LOCK, NEXT.public_key, REQUEST))
    return log_of(review, job).rotate(AGENT, NEXT, by_both=True).file(review=review, by=NEXT)


def handed_twice() -> ReceiptFile:
    review = signed(REVIEW)
    log = log_of(review).rotate(AGENT, NEXT, by_both=True).publish().rotate(NEXT, THIEF, by_both=False)
    return log.file(review=review, by=THIEF)


def bare_root() -> ReceiptFile:
    return log_of().file(None)


def first_root() -> ReceiptFile:
    return replace(log_of(), published=0).file()


def published_again() -> ReceiptFile:
    """A root over no more leaves than the one before."""
    return log_of().publish().file()


def as_late_as_can_be() -> ReceiptFile:
    return log_of().rotate(AGENT, NEXT, by_both=True, at=NOW + 900).file(by=NEXT, at=NOW + 900)


@pytest.mark.parametrize(
    ("make", "unknown"),
    [
        (invoiced, "3000 msat"),
        (silent, "customer has said"),
        (unanswered, "answers this review"),
        (unproved, "no evidence"),
        (unseen, "https://mint.test"),
        (revealed, "https://mint.test"),
        (without_result, "relay"),
        (replaceable, "relay"),
        (handed_on, "relay"),
        (recovered, "relay"),
        (claimed_by_a_later_key, "relay"),
        (handed_twice, "relay"),
        (bare_root, "relay"),
        (first_root, "relay"),
        (published_again, "relay"),
        (as_late_as_can_be, "relay"),
    ],
)
def test_what_else_is_honest_passes_and_says_what_is_not_known(
    make: Callable[[], ReceiptFile], unknown: str
) -> None:
    file = make()
    assert not refused(file)
    assert unknown in said(check_file(file, NOW, ME), Verdict.NOT_CHECKED)


def test_a_log_is_known_by_each_of_its_keys_and_by_no_other() -> None:
    file = handed_on()
    assert not refused(file, NEXT.public_key)
    assert refused(file, THIEF.public_key)
    assert refused(honest(), NEXT.public_key)


def test_without_a_key_the_file_vouches_for_itself_and_says_so() -> None:
    assert not refused(honest(), None)
    assert "say its key" in said(check_file(honest(), NOW), Verdict.NOT_CHECKED)


def test_a_key_that_the_log_had_not_named_is_doubted() -> None:
    review = signed(REVIEW)
    file = log_of(review).rotate(AGENT, THIEF, by_both=True).file(review=review, by=THIEF)
    assert not refused(file)
    assert f"had not named {THIEF.public_key}" in said(check_file(file, NOW, ME), Verdict.NOT_CHECKED)
    assert "had not named" not in said(check_file(handed_on(), NOW, ME), Verdict.NOT_CHECKED)
    for one, verdict in ((file, None), (handed_on(), True)):
        told = {what: passed for passed, what in example.check_file(json.loads(one.to_json()), ME, NOW)}
        assert told["that its owner did so: the log had named that key (or ask a relay)"] is verdict


@pytest.mark.parametrize("size", range(1, 34))
def test_every_place_of_a_rotation_is_proved_with_what_was_before_it(size: int) -> None:
    log = Log().add(*[JOB] * (size - 1)).rotate(AGENT, NEXT, by_both=True).add(*[JOB] * (34 - size))
    for more in (0, 1, 2, 5):
        file = replace(log, leaves=log.leaves[: size + 1 + more]).file(None, by=NEXT)
        assert not refused(file)


def test_a_file_of_the_first_release_is_read_for_ever() -> None:
    """The one that docs/receipts.md shows the form of."""
    raw = (Path(__file__).parent / "vectors" / "receipt.json").read_bytes()
    assert not refused(raw)
    assert not refused(raw, NEXT.public_key)
    assert parse_file(raw).to_json() == raw


# What is not -----------------------------------------------------------------------------------------------------


def forged_root() -> ReceiptFile:
    return replace(honest(), root=replace_event(honest().root, sig=honest().root.sig[::-1]))


def replace_event(event: Event, **changes: Any) -> Event:
    return structs.replace(event, **changes)


def root_of_another() -> ReceiptFile:
    return replace(honest(), root=resigned(honest().root, THIEF))


def root_of_the_future() -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).file(review=review, at=NOW + 901)


def root_by_the_old_key() -> ReceiptFile:
    file = handed_on()
    return replace(file, root=resigned(file.root, AGENT))


def root_by_the_new_key_too_early() -> ReceiptFile:
    return replace(honest(), root=resigned(honest().root, NEXT))


def with_tag(file: ReceiptFile, name: str, *values: str) -> ReceiptFile:
    tags = tuple((name, *values) if tag[0] == name else tag for tag in file.root.tags)
    return replace(file, root=resigned(file.root, AGENT, tags=tags))


def rewritten_history() -> ReceiptFile:
    return with_tag(honest(), "prev", "99" * 32, "4")


def shrunken_log() -> ReceiptFile:
    root = next(tag[1] for tag in honest().root.tags if tag[0] == "root")
    return with_tag(honest(), "prev", root, "99")


def unproved_growth() -> ReceiptFile:
    return with_tag(honest(), "consistency")


def idle_proof() -> ReceiptFile:
    return with_tag(first_root_with_proof(), "consistency", "99" * 32)


def first_root_with_proof() -> ReceiptFile:
    file = first_root()
    return replace(file, root=resigned(file.root, AGENT, tags=(*file.root.tags, ("consistency",))))


def other_algorithm() -> ReceiptFile:
    return with_tag(honest(), "alg", "sha1")


def vanishing_root() -> ReceiptFile:
    root = honest().root
    return replace(honest(), root=resigned(root, AGENT, tags=(*root.tags, ("expiration", "1900000000"))))


def other_kind() -> ReceiptFile:
    return replace(honest(), root=resigned(honest().root, AGENT, kind=30078))


def leaf_of_another_place() -> ReceiptFile:
    return with_leaf(honest(), 1, number=4)


def leaf_with_another_proof() -> ReceiptFile:
    return with_leaf(honest(), 1, path=honest().leaves[2].path)


def leaf_that_is_not_there() -> ReceiptFile:
    better = structs.replace(JOB, amount_msat=2999)
    return with_leaf(honest(), 1, leaf=write_leaf(better))


def with_leaf(file: ReceiptFile, place: int, **changes: Any) -> ReceiptFile:
    leaves: list[ProvedLeaf] = list(file.leaves)
    leaves[place] = replace(leaves[place], **changes)
    return replace(file, leaves=tuple(leaves))


def beginning_by_another() -> ReceiptFile:
    log = Log((write_leaf(structs.replace(FIRST_LEAF, key=THIEF.public_key)),)).add(JOB)
    return log.file()


def job_left_out() -> ReceiptFile:
    file = honest()
    return replace(file, leaves=(file.leaves[0], file.leaves[2]))


def two_jobs() -> ReceiptFile:
    file = honest()
    return replace(file, leaves=(*file.leaves, file.leaves[1]))


def answer_without_review() -> ReceiptFile:
    return replace(honest(), review=None)


def another_review() -> ReceiptFile:
    return replace(honest(), review=signed(replace(REVIEW, rating=1)))


def forged_review() -> ReceiptFile:
    event = signed(REVIEW)
    return with_review(replace_event(event, content="other words"))


def review_by_another() -> ReceiptFile:
    return with_review(signed(replace(REVIEW, offer=None), by=THIEF))


def review_by_itself() -> ReceiptFile:
    review = signed(REVIEW, by=AGENT)
    job = structs.replace(JOB, customer=AGENT.public_key)
    return with_review(review, job)


def review_of(**changes: Any) -> Callable[[], ReceiptFile]:
    return lambda: with_review(signed(replace(REVIEW, offer=None, **changes)))


def job_with(**changes: Any) -> Callable[[], ReceiptFile]:
    return lambda: with_review(signed(replace(REVIEW, offer=None)), structs.replace(JOB, **changes))


def coins_of(*coins: Any) -> Callable[[], ReceiptFile]:
    return review_of(evidence=SpentLock(COINS.mint, coins))


def other_preimage() -> ReceiptFile:
    review = replace(PAID_REVIEW, evidence=replace(PAID, preimage="dd" * 32))
    return with_review(signed(review), INVOICED)


def preimage_for_a_lock() -> ReceiptFile:
    return with_review(signed(replace(PAID_REVIEW, offer=None)))


def coins_for_an_invoice() -> ReceiptFile:
    return with_review(signed(replace(REVIEW, offer=None)), INVOICED)


def answer_to_another_job() -> ReceiptFile:
    review = signed(REVIEW)
    log = Log().add(JOB, structs.replace(answer_to(review), request="ff" * 32))
    return log.file(review=review)


def stolen_without_commitment() -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).rotate(AGENT, THIEF, by_both=False).file(review=review, by=THIEF)


def rotation_that_its_log_does_not_heed() -> ReceiptFile:
    return log_of().rotate(AGENT, THIEF, by_both=False).file()


def rotation_of_the_future() -> ReceiptFile:
    review = signed(REVIEW)
    return log_of(review).rotate(AGENT, NEXT, by_both=True, at=NOW + 901).file(review=review, by=NEXT)


def signed_over(by_both: bool, old: SecretKey, new: SecretKey) -> Callable[[], ReceiptFile]:
    """A rotation from the agent's key to the next one that others signed."""
    return lambda: log_of().rotate(AGENT, NEXT, by_both=by_both, signers=(old, new)).file(by=NEXT)


def rotation_at_the_very_beginning() -> ReceiptFile:
    return Log(()).rotate(AGENT, NEXT, by_both=True, head=Head(0, "")).add(JOB).file(by=NEXT)


def other_root_of_the_same_size() -> ReceiptFile:
    return with_tag(published_again(), "prev", "99" * 32, str(len(log_of().leaves)))


def rotation_from_elsewhere() -> ReceiptFile:
    """The leaf of a rotation that was made when the log was another one."""
    review = signed(REVIEW)
    rotation = log_of(review, others=6).rotate(AGENT, NEXT, by_both=True).leaves[-1]
    return log_of(review).add(rotation).file(review=review, by=NEXT)


def rotation_back() -> ReceiptFile:
    review = signed(REVIEW)
    log = log_of(review).rotate(AGENT, NEXT, by_both=True).rotate(NEXT, AGENT, by_both=True)
    return log.file(review=review, by=AGENT)


def rotation_changed(**changes: Any) -> Callable[[], ReceiptFile]:
    """One whose event says otherwise, signed anew by the old key, with the consent as it was."""

    def make() -> ReceiptFile:
        review = signed(REVIEW)
        log = log_of(review).rotate(AGENT, NEXT, by_both=True)
        leaf = json.loads(log.leaves[-1])
        event = parse_event(leaf["rotation"])
        leaf["rotation"] = resigned(event, AGENT, **changes).to_json().decode()
        text = json.dumps(leaf, separators=(",", ":"), sort_keys=True)
        return replace(log, leaves=log.leaves[:-1]).add(text).file(review=review, by=NEXT)

    return make


def another_log() -> ReceiptFile:
    """A whole log of a thief, in which all is right but whose it is."""
    return with_tag(silent(), "log", THIEF.public_key)


KEPT: dict[str, list[Callable[[], ReceiptFile]]] = {
    "signature of the root": [forged_root],
    "signed by the key that the log is with": [
        root_of_another, root_by_the_old_key, root_by_the_new_key_too_early,
    ],
    "dated in the future": [root_of_the_future, rotation_of_the_future],
    "the log grew out of": [
        other_root_of_the_same_size, rewritten_history, shrunken_log, unproved_growth,
    ],
    "well-formed": [idle_proof, other_algorithm, other_kind, vanishing_root],
    "is under the root": [leaf_of_another_place, leaf_with_another_proof, leaf_that_is_not_there],
    "begins with its first key": [beginning_by_another, rotation_at_the_very_beginning],
    "by the old key, or with no overlap by the new": [
        signed_over(True, THIEF, NEXT), signed_over(False, THIEF, THIEF), signed_over(False, AGENT, AGENT),
    ],
    f"the log is that of {ME}": [another_log],
    "has a leaf of the job": [job_left_out],
    "of one receipt": [two_jobs],
    "that the log answers is in the file": [answer_without_review],
    "the log answers this review": [another_review, answer_to_another_job],
    "signature of the review": [forged_review],
    "not by the agent itself": [review_by_itself],
    "about this agent": [review_of(provider=THIEF.public_key)],
    "customer of the log's job": [
        review_by_another, review_of(request_id="ff" * 32), review_of(result_id="ff" * 32), review_of(kind=5051),
    ],
    "preimage is that of the invoice": [other_preimage, preimage_for_a_lock],
    "locked to the key": [
        coins_for_an_invoice, coins_of(coin(4, secret("01", key=OTHER_KEY))), coins_of(coin(4, "plain")),
        coins_of(coin(4, secret("01", key=OTHER_KEY, kind="HTLC"))), coins_of(coin(4, secret("01", kind="P2BK"))),
        coins_of(coin(3, secret("01")), coin(1, secret("02", key=OTHER_KEY))),
    ],
    "signed that it is of this agent": [
        job_with(lock_sig=""), job_with(lock_sig=CLAIM_OF_ANOTHER), job_with(lock_sig=CLAIM_FOR_ANOTHER_JOB),
        job_with(lock_sig=claim_lock(THIEF, ME, REQUEST)),
    ],
    "that key signed for": [
        coins_of(coin(4, secret("01"), signer=THIEF)), coins_of(replace(coin(4, secret("01")), witness="{}")),
        coins_of(replace(coin(4, secret("01")), witness="[1]")),
        coins_of(replace(coin(4, secret("01")), witness='{"signatures":["zz"]}')),
    ],
    "come to 3000 msat": [coins_of(coin(2, secret("01"))), coins_of(*[coin(2, secret("01"))] * 2)],
    "the key before did not sign": [stolen_without_commitment, rotation_that_its_log_does_not_heed],
    "another one": [rotation_from_elsewhere, rotation_back],
    "not signed as it says": [rotation_changed(content=""), rotation_changed(content="{}")],
    "does not say the same": [signed_over(True, AGENT, THIEF), rotation_changed(created_at=NOW - 1)],
    "not a rotation": [rotation_changed(kind=30078), rotation_changed(tags=())],
}  # fmt: skip


@pytest.mark.parametrize(("why", "make"), [(why, make) for why, makes in KEPT.items() for make in makes])
def test_no_forgery_passes(why: str, make: Callable[[], ReceiptFile]) -> None:
    file = make()
    assert refused(file)
    assert why in said(check_file(file, NOW, ME), Verdict.FAILED)


@pytest.mark.parametrize(
    "false",
    [
        offer(request="ff" * 32), offer(customer=THIEF), offer(by=THIEF), offer(lock=OTHER_KEY),
        offer(claim=""), offer(claim=CLAIM_OF_ANOTHER),
        resigned(offer(), AGENT, kind=1), replace_event(offer(), content="other words"),
    ],
)  # fmt: skip
def test_an_offer_in_the_review_is_the_agents_own_for_this_job(false: Event) -> None:
    assert not accepts(with_review(signed(replace(REVIEW, offer=false))).to_json())


def test_an_offer_or_a_result_names_the_invoice() -> None:
    other = with_review(signed(replace(PAID_REVIEW, offer=offer(invoice="lnbc1other"))), INVOICED)
    assert not accepts(other.to_json())
    result = resigned(offer(invoice=PAID.bolt11), AGENT, kind=6050)
    assert accepts(with_review(signed(replace(PAID_REVIEW, offer=result)), INVOICED).to_json())


# One character ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [honest, handed_on, recovered, invoiced])
def test_no_bit_of_a_file_may_differ(make: Callable[[], ReceiptFile]) -> None:
    raw = make().to_json()
    chance = random.Random(len(raw))
    for place in chance.sample([place for place, byte in enumerate(raw) if byte > 0x20], 700):
        bent = bytearray(raw)
        bent[place] ^= 1 << chance.randrange(8)
        assert refused(bytes(bent)), (place, raw[place : place + 1], bent[place : place + 1])


def test_no_letter_of_a_hash_may_be_a_capital() -> None:
    file = honest()
    raw, root, review = file.to_json(), file.root, signed_review(file)
    for part in (*file.leaves[1].path, root.id, root.pubkey, root.sig, review.id, review.pubkey, review.sig):
        bent = raw.replace(f'"{part}"'.encode(), f'"{part.upper()}"'.encode())
        assert bent != raw
        assert refused(bent)


# The form --------------------------------------------------------------------------------------------------------


def malformed() -> Iterator[bytes]:
    whole = json.loads(honest().to_json())
    for name in whole:
        yield json.dumps({other: value for other, value in whole.items() if other != name}).encode()
        yield json.dumps(whole | {name: 7}).encode()
    for name in whole["leaves"][0]:
        leaves = [{**leaf} for leaf in whole["leaves"]]
        del leaves[1][name]
        yield json.dumps(whole | {"leaves": leaves}).encode()
    for leaf in ("", "{}", "[]", "null", '{"type":"other"}', "\ud800"):
        leaves = [whole["leaves"][0] | {"leaf": leaf}, *whole["leaves"][1:]]
        yield json.dumps(whole | {"leaves": leaves}).encode()
    for path in (["zz" * 32], ["aa" * 31], [7], "aa", ["aa" * 32] * 200):
        leaves = [whole["leaves"][0] | {"path": path}, *whole["leaves"][1:]]
        yield json.dumps(whole | {"leaves": leaves}).encode()
    for number in (-1, 2**32, "0", None, 0.5):
        leaves = [whole["leaves"][0] | {"number": number}, *whole["leaves"][1:]]
        yield json.dumps(whole | {"leaves": leaves}).encode()
    yield json.dumps(whole | {"format": "tradepost-receipt-2"}).encode()
    yield json.dumps(whole | {"root": whole["review"]}).encode()
    yield json.dumps(whole | {"review": whole["root"]}).encode()
    yield from (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, honest().to_json()[:-3])


def test_what_has_another_form_is_refused_and_never_fails_otherwise() -> None:
    for number, raw in enumerate(malformed()):
        assert refused(raw), number


def test_a_file_has_limits() -> None:
    raw = honest().to_json()
    assert accepts(raw + b" " * (FILE_BYTES_MAX - len(raw)))
    with pytest.raises(InvalidReceipt, match="bytes at most"):
        parse_file(raw + b" " * (FILE_BYTES_MAX - len(raw) + 1))
    with pytest.raises(InvalidReceipt, match="no file of a receipt"):
        parse_file(replace(honest(), leaves=honest().leaves[:1] * (LEAVES_MAX + 1)).to_json())


def test_a_file_is_made_of_the_leaves_under_the_root_alone() -> None:
    log = log_of()
    root = log.root()
    for leaves in (log.leaves[:-1], log.leaves[1:], [*log.leaves[:-1], "other"]):
        with pytest.raises(InvalidReceipt, match="under the root"):
            make_file(root, leaves, REQUEST)
    with pytest.raises(InvalidReceipt, match="no leaf of this job"):
        make_file(root, log.leaves, "ff" * 32)
    assert make_file(root, [*log.leaves, "newer"], REQUEST) == make_file(root, log.leaves, REQUEST)
    twice = log.add("what nobody can read", structs.replace(JOB, amount_msat=1))
    assert [leaf.number for leaf in twice.file().leaves] == [0, 3]


# The example -----------------------------------------------------------------------------------------------------


def test_the_example_is_short_and_imports_coincurve_and_the_standard_library() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imported: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"coincurve"}


@pytest.fixture(scope="module")
def nothing_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that has coincurve and what that needs, and nothing else."""
    folder = tmp_path_factory.mktemp("coincurve")
    for name in ("coincurve", "cffi", "_cffi_backend", "asn1crypto", "pycparser"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found = Path(spec.origin)
            found = found.parent if found.name == "__init__.py" else found
            (folder / found.name).symlink_to(found)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    python = [sys.executable, "-S", "-P", *command]  # no site-packages, no folder of the script
    return subprocess.run(
        python, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_example_runs_where_nothing_of_ours_is(nothing_of_ours: Path, tmp_path: Path) -> None:
    for package in ("identity", "tradepost", "store", "msgspec"):
        assert run(nothing_of_ours, "-c", f"import {package}").returncode == 1
    path = tmp_path / "receipt.json"
    path.write_bytes(honest().to_json())
    good = run(nothing_of_ours, str(EXAMPLE), str(path), encode_npub(ME))
    assert (good.returncode, good.stderr) == (0, "")
    verdicts = [line.split(" ")[0] for line in good.stdout.splitlines()]
    assert set(verdicts) == {"ok", "not"}
    assert verdicts.count("ok") >= 12
    other = run(nothing_of_ours, str(EXAMPLE), str(path), THIEF.public_key)
    assert other.returncode == 1
    assert f"FAILED the log is that of the agent: {THIEF.public_key[:16]}" in other.stdout
    for wrong in ([], [str(tmp_path / "none.json")], [str(EXAMPLE)], [str(path), "npub1mistyped"]):
        assert run(nothing_of_ours, str(EXAMPLE), *wrong).returncode == 2


@pytest.mark.parametrize("key", [AGENT, NEXT, CUSTOMER, LOCK])
def test_the_example_reads_npubs(key: Any) -> None:
    assert example.read_key(encode_npub(key.public_key)) == key.public_key == example.read_key(key.public_key)
    for wrong in (encode_npub(key.public_key)[:40], key.public_key[1:], LOCK_KEY, RESULT[:-1] + "G", ""):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, the script ends with it
            example.read_key(wrong)
