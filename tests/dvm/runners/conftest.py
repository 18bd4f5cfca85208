"""A job to run."""

from collections.abc import Callable

import pytest

from dvm import Job
from dvm.nip90 import parse_request
from identity import SecretKey, make_template, sign_event


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(text: str = "some text", *tags: tuple[str, ...], kind: int = 5050) -> Job:
        template = make_template(kind, tags=[("i", text, "text"), *tags], created_at=1)
        request = parse_request(sign_event(template, SecretKey.generate()))

        async def report(message: str, content: str) -> None: ...

        return Job(request, report)

    return make
