"""What an agent's function sees of its job, and says about its work."""

import math

import pytest

from dvm import Job
from dvm.nip90 import parse_request
from identity import SecretKey, make_template, sign_event


@pytest.fixture
def job() -> Job:
    async def report(_message: str, _content: str) -> None:
        """Nobody listens."""

    template = make_template(5001, tags=[("i", "some text", "text")], created_at=1)
    return Job(parse_request(sign_event(template, SecretKey.generate())), report)


def test_an_agent_says_how_sure_it_is_or_does_not(job: Job) -> None:
    assert job.confidence is None
    for stated, kept in ((0, 0.0), (1, 1.0), (0.8, 0.8), (0.834, 0.83), (None, None)):
        job.confidence = stated
        assert job.confidence == kept


@pytest.mark.parametrize("stated", [-0.01, 1.01, 80, math.nan, math.inf])
def test_a_confidence_is_zero_to_one(job: Job, stated: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        job.confidence = stated
    assert job.confidence is None
