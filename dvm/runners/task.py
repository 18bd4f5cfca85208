"""A job as other programs read it, and what they answer. Pure: no process, no socket."""

from typing import Any, Final

import msgspec

from dvm.agent import Job
from dvm.errors import JobFailed

ANSWER_BYTES_MAX: Final = 1024 * 1024
REASON_CHARACTERS_MAX: Final = 500


def task_json(job: Job) -> bytes:
    """The job as JSON: kind, id, text, inputs (type, text, media_type), params (lists of strings), output or null."""
    return msgspec.json.encode(
        {
            "kind": job.kind,
            "id": job.id,
            "text": job.text,
            "inputs": [
                {"type": part.type, "text": part.text, "media_type": part.media_type} for part in job.inputs
            ],
            "params": job.params,
            "output": job.output,
        }
    )


def read_answer(data: bytes) -> str:
    """The result in what a program answered: `{"content": …}` (anything but text as JSON), or else all of it as text.

    Raises `JobFailed`: with the program's own words for `{"error": "why"}`, which the customer reads, and for what is
    empty, no UTF-8 or longer than `ANSWER_BYTES_MAX`.
    """
    if len(data) > ANSWER_BYTES_MAX:
        raise JobFailed(f"the agent's answer was longer than {ANSWER_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise JobFailed("the agent's answer was no text") from None
    answer = _object(text)
    if isinstance(reason := answer.get("error"), str):
        raise JobFailed(reason[:REASON_CHARACTERS_MAX] or "the agent failed on this job")
    if "content" in answer:
        content = answer["content"]
        text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    if not text.strip():
        raise JobFailed("the agent's answer was empty")
    return text


def _object(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
