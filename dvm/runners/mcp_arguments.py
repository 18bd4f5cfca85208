"""The arguments of an MCP tool, as a request for a job gives them. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import structlog

from dvm.agent import Job
from dvm.errors import JobFailed, RunnerUnusable
from dvm.schemas import NUMBER, TEXT, TRUTH, WHOLE, Form, Param

log = structlog.get_logger(__name__)

ABOUT_CHARACTERS_MAX: Final = 200
#: By JSON's types, how a request writes an argument; None: it cannot.
_FORMS: Final[dict[str, Form | None]] = {
    "integer": WHOLE, "number": NUMBER, "boolean": TRUTH, "array": None, "object": None,
}  # fmt: skip


def choose_arguments(schema: Mapping[str, Any], job: Job, text: str) -> dict[str, Any]:
    """The tool's arguments that the job has. Raises `JobFailed` if a parameter has the wrong type."""
    properties: dict[str, Any] = schema.get("properties") or {}
    try:
        text = _text_argument(schema, text)
    except RunnerUnusable as error:
        log.error("mcp_argument_unclear", reason=str(error))
        raise JobFailed("the agent is not set up for this tool") from None
    values = {
        name: _value(name, job.param(name), _type(properties, name)) for name in properties if job.param(name)
    }
    return values | {text: job.text}


def parameters(schema: Mapping[str, Any], text: str, fixed: Mapping[str, Any]) -> tuple[Param, ...]:
    """The tool's arguments as parameters of a request, but for the job's text and those that are fixed.

    Raises `RunnerUnusable` if it is not clear which takes the text, or if one is needed that no request can give.
    """
    properties: dict[str, Any] = schema.get("properties") or {}
    text, needed = _text_argument(schema, text), schema.get("required", ())
    found = []
    for name in properties.keys() - {text, *fixed}:
        form = _FORMS.get(_type(properties, name), TEXT)
        if form is None and name in needed:
            raise RunnerUnusable(f"the tool needs {name}, which no request can give: set it in `arguments`")
        told = properties[name] if isinstance(properties[name], dict) else {}
        values = [value for value in told.get("enum", ()) if isinstance(value, str)]
        about = str(told.get("description", ""))[:ABOUT_CHARACTERS_MAX]
        if form is not None:
            found.append(Param(name, about, values, form, required=name in needed))
    return tuple(sorted(found, key=lambda param: param.name))


def _text_argument(schema: Mapping[str, Any], text: str) -> str:
    """The argument that takes the job's text: the one that was named, or the only text that must be given."""
    properties: dict[str, Any] = schema.get("properties") or {}
    texts = [name for name in schema.get("required", ()) if _type(properties, name) == "string"]
    if text or len(texts) == 1:
        return text or texts[0]
    raise RunnerUnusable(
        f"say which argument gets the job's text, as `text`: {', '.join(sorted(properties))}"
    )


def _type(properties: Mapping[str, Any], name: str) -> str:
    found = properties.get(name)
    return str(found.get("type", "")) if isinstance(found, dict) else ""


def _value(name: str, value: str, wanted: str) -> Any:
    try:
        match wanted:
            case "integer":
                return int(value)
            case "number":
                return float(value)
            case "boolean":
                return {"true": True, "false": False}[value.lower()]
            case "array" | "object":
                raise ValueError
            case _:
                return value
    except (ValueError, KeyError):
        raise JobFailed(
            f"the parameter {name} cannot be given to the agent's tool: it takes {wanted}"
        ) from None
