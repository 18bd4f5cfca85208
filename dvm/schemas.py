"""What each kind of job takes and gives: inputs, parameters, output types. Pure.

Source: the data-vending-machines registry, read as leniently as deployed clients write: a parameter that a kind does
not know passes through, unless the agent says otherwise (`Others`); where clients spell a name in several ways
(`top_k`, `top-k`) the agent sees the registry's.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Final

from dvm.errors import BadRequest
from dvm.kinds import NAMES, name_of
from dvm.nip90 import INPUT_TYPES, Input, JobRequest

_TOLD_MAX: Final = 60  # characters of what came, in an error
_VALUES_TOLD_MAX: Final = 20
_CHARACTERS_MAX: Final = 40  # of a number, or a language's name
_INT_MAX: Final = 2**63 - 1  # what works of all languages can count


@dataclass(frozen=True)
class Form:
    """What a value of a parameter looks like: `what` in words, for errors and announcements, and a test of it."""

    what: str
    fits: Callable[[str], bool]


def _number(value: str, read: Callable[[str], float], low: float, high: float) -> bool:
    """Whether `read`, int or float, makes a number in that range of a short text of ASCII."""
    if len(value) > _CHARACTERS_MAX or not value.isascii() or "_" in value:
        return False
    try:
        return low <= read(value) <= high
    except ValueError:
        return False


TEXT: Final = Form("text", bool)
NUMBER: Final = Form("a number", lambda value: _number(value, float, -sys.float_info.max, sys.float_info.max))
WHOLE: Final = Form("a whole number", lambda value: _number(value, int, -_INT_MAX, _INT_MAX))
TRUTH: Final = Form("one of true, false", lambda value: value.casefold() in ("true", "false"))


def matching(pattern: str, what: str) -> Form:
    """Values that are wholly as a regular expression says."""
    compiled = re.compile(pattern, re.ASCII)
    return Form(what, lambda value: compiled.fullmatch(value) is not None)


def whole(low: int, high: int | None = None) -> Form:
    """Whole numbers from `low` on, to `high` if there is one."""
    what = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    return Form(what, lambda value: _number(value, int, low, _INT_MAX if high is None else high))


def number(low: float, high: float) -> Form:
    """Numbers, with a point or an exponent, or without."""
    what = f"a number from {low:g} to {high:g}"
    return Form(what, lambda value: _number(value, float, low, high))


def one_of(*values: str) -> Form:
    """One of some words."""
    more = " and others" if len(values) > _VALUES_TOLD_MAX else ""
    what = "one of " + ", ".join(values[:_VALUES_TOLD_MAX]) + more
    return Form(what, frozenset(values).__contains__)


class Others(StrEnum):
    """What becomes of parameters that a schema does not name."""

    PASSED = "passed"  # the work may read them
    IGNORED = "ignored"  # nothing reads them: the customer is told, and the work is done
    REFUSED = "refused"


@dataclass(frozen=True)
class Param:
    """A parameter of a job: `values` are all that are allowed, or `form` says what they look like.

    `about` is a sentence for its users. `count_max`: how many values it takes. `aka`: other names clients give it;
    other ways to write `name` (`top-k` for `top_k`) are understood unless that is ambiguous.
    """

    name: str
    about: str = ""
    values: Sequence[str] = ()
    form: Form = TEXT
    required: bool = False
    count_max: int = 1
    aka: Sequence[str] = ()

    @property
    def allowed(self) -> Form:
        """What its values are checked against."""
        return one_of(*self.values) if self.values else self.form

    def check(self, given: Sequence[str]) -> None:
        """Raise `BadRequest` if these values will not do. Empty ones mean that it was not given."""
        values = [value for value in given if value]
        form = self.allowed
        if not values:
            if self.required:
                raise BadRequest(f"the parameter {self.name} is missing; allowed is {form.what}")
            return
        if len(values) > self.count_max:
            most = "one value" if self.count_max == 1 else f"at most {self.count_max} values"
            raise BadRequest(f"the parameter {self.name} takes {most}, not {len(values)}")
        for value in values:
            if not form.fits(value):
                raise BadRequest(f"the parameter {self.name} is {_told(value)}; allowed is {form.what}")


@dataclass(frozen=True)
class Schema:
    """One kind of job, as one agent serves it.

    `links`: URLs are handed to the agent as they are, as they lead to sound or pictures, and not fetched as text.
    `outputs`: the types of results; none means that nothing is known of them. All results are text, so `text/plain`
    is always among them.
    """

    name: str
    params: tuple[Param, ...] = ()
    input_types: frozenset[str] = INPUT_TYPES
    inputs_min: int = 1
    inputs_max: int = 100
    input_bytes_max: int | None = None
    links: bool = False
    outputs: tuple[str, ...] = ()
    others: Others = Others.PASSED

    def check(self, request: JobRequest) -> None:
        """Raise `BadRequest`, for the customer's eyes, if a request is not one of this kind."""
        self._check_inputs(request.inputs)
        self.read(request.params)
        self._check_output(request.outputs)

    def read(self, given: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        """Parameters under the names that the agent knows, checked. Raises `BadRequest`."""
        if not given and not self._required:
            return given
        found: dict[str, tuple[str, ...]] = {}
        for name, values in given.items():
            param = self._find(name)
            key = param.name if param else name
            before = found.get(key, values)
            if before == values:
                found[key] = values
            elif param is not None and param.count_max > 1:
                found[key] = (*before, *values)
            else:
                one, other = (_told(", ".join(told)) for told in (before, values))
                raise BadRequest(f"the parameter {key} is given as {one} and as {other}")
        for param in self.params:
            param.check(found.get(param.name, ()))
        if self.others is Others.REFUSED and (unknown := self._unknown(given)):
            raise BadRequest(f"there is no parameter {_told(unknown[0])}; {self._taken()}")
        return found

    def ignored(self, given: Mapping[str, tuple[str, ...]]) -> str:
        """A sentence, for the customer's eyes, on the parameters that nothing will read; empty if all are read."""
        unknown = self._unknown(given) if self.others is Others.IGNORED else []
        if not unknown:
            return ""
        names = ", ".join(map(_told, unknown[:_VALUES_TOLD_MAX]))
        return f"ignored, as nothing here reads it: the parameter {names}; {self._taken()}"

    def with_params(self, params: Sequence[Param]) -> "Schema":
        """The schema with an agent's own parameters, which replace those of the same names. `ValueError` for two."""
        if len({param.name for param in params}) < len(params):
            raise ValueError("two parameters have the same name")
        own = {_spelled(param.name) for param in params}
        kept = tuple(param for param in self.params if _spelled(param.name) not in own)
        return replace(self, params=(*kept, *params))

    def _unknown(self, given: Iterable[str]) -> list[str]:
        return [name for name in given if self._find(name) is None]

    def _taken(self) -> str:
        names = ", ".join(param.name for param in self.params[:_VALUES_TOLD_MAX])
        return f"{self.name} takes {names}" if names else f"{self.name} takes none"

    def _find(self, name: str) -> Param | None:
        return self._exact.get(name) or self._spellings.get(_spelled(name))

    @cached_property
    def _exact(self) -> dict[str, Param]:
        return {param.name: param for param in self.params}

    @cached_property
    def _spellings(self) -> dict[str, Param]:
        """Without those that two parameters share, as an MCP tool may have `top_k` and `topK`."""
        times = Counter(_spelled(param.name) for param in self.params)
        found = {_spelled(name): param for param in self.params for name in param.aka}
        found |= {_spelled(param.name): param for param in self.params}
        return {spelled: param for spelled, param in found.items() if times[spelled] < 2}

    @cached_property
    def _required(self) -> bool:
        return any(param.required for param in self.params)

    def _check_inputs(self, inputs: Sequence[Input]) -> None:
        if len(inputs) < self.inputs_min:
            example = "text" if "text" in self.input_types else min(self.input_types)
            raise BadRequest(f'the request has no input; add a tag ["i", …, "{example}"]')
        if len(inputs) > self.inputs_max:
            raise BadRequest(f"{self.name} takes at most {self.inputs_max} inputs, not {len(inputs)}")
        for part in inputs:
            if part.type not in self.input_types:
                allowed = " or ".join(sorted(self.input_types))
                raise BadRequest(f"{self.name} takes inputs of type {allowed}, not {part.type}")
            size = len(part.data.encode()) if self.input_bytes_max is not None else 0
            if self.input_bytes_max is not None and size > self.input_bytes_max:
                raise BadRequest(f"{self.name} takes {self.input_bytes_max} bytes, not {size}")

    def _check_output(self, outputs: Sequence[str]) -> None:
        """One of them must do."""
        asked = [output.partition(";")[0].strip().lower() for output in outputs if output]
        given = tuple(dict.fromkeys(("text/plain", *self.outputs)))
        if not asked or not self.outputs or any(_covers(one, other) for one in asked for other in given):
            return
        wanted = _told(", ".join(filter(None, outputs)))
        raise BadRequest(f"the output is to be {wanted}; {self.name} gives one of {', '.join(given)}")


def schema_of(kind: int) -> Schema:
    """What the registry says of a kind; of one that is not registered, that anything goes."""
    return SCHEMAS.get(kind) or Schema(name_of(kind), inputs_min=0)


def _spelled(name: str) -> str:
    """`top_k`, `top-k`, `topK` are one name."""
    return name.casefold().replace("_", "").replace("-", "")


def _covers(wanted: str, given: str) -> bool:
    """Whether a result of the type `given` is what was asked for: `audio/mp3`, `audio/*`, `audio` or `*/*`."""
    return wanted in (given, "*", "*/*") or given.startswith(wanted.removesuffix("*").removesuffix("/") + "/")


def _told(value: str) -> str:
    return repr(value if len(value) <= _TOLD_MAX else f"{value[: _TOLD_MAX - 1]}…")


# The registry ----------------------------------------------------------------------------------------------------


def _is_language(value: str) -> bool:
    """Letters and digits of any script, as in `es-419`, `Español`, `中文`; a letter first."""
    return (
        2 <= len(value) <= _CHARACTERS_MAX
        and value[0].isalpha()
        and all(char in " _-" or unicodedata.category(char)[0] in "LMN" for char in value)
    )


_LINKED: Final = INPUT_TYPES - {"text"}
_MANY: Final = 100
_RELAY: Final = matching(r"wss?://\S{1,500}", "the URL of a relay, ws:// or wss://")
_LANGUAGE: Final = Param(
    "language",
    "the language of the result",
    form=Form("a code of ISO 639 like es or pt-BR", _is_language),
    aka=("lang",),
)
_SUBTITLE: Final = replace(_LANGUAGE, name="subtitle", about="the language of subtitles", aka=())
_RANGE: Final = Param(
    "range",
    "where to start and where to end",
    form=matching(r"\d{1,6}(\.\d{1,3})?|(\d{1,2}:)?\d{1,2}:\d{2}(\.\d{1,3})?", "seconds, or hh:mm:ss"),
    count_max=2,
)
_MODEL: Final = Param("model", "which model does it")
_FOR: Final = Param(
    "p",
    "for whom, if not for the customer",
    form=matching("[0-9a-f]{64}", "a public key, 64 hex digits"),
    aka=("user",),
)
_RESULTS: Final = Param("max_results", "how many results at most", form=whole(1))
_PLAIN: Final = ("text/plain",)
_VIDEO: Final = ("video/mp4", "video/avi", "audio/mp3", "audio/wav", "audio/ogg")
_TEXTUAL: Final = ("text/plain", "text/markdown")


SCHEMAS: Final = {
    5000: Schema(
        NAMES[5000], (_RANGE, Param("alignment", "of the labels", ("raw", "segment", "word"))),
        links=True, outputs=(*_TEXTUAL, "text/vtt"),
    ),
    5001: Schema(
        NAMES[5001], (Param("length", "in words or paragraphs, like `10 paragraphs`"),), outputs=_TEXTUAL
    ),
    5002: Schema(NAMES[5002], (_LANGUAGE,), outputs=_PLAIN),
    5050: Schema(
        NAMES[5050],
        (
            _MODEL,
            Param("max_tokens", "how long the answer gets at most", form=whole(1)),
            Param("temperature", "how random it is", form=number(0, 2)),
            Param("top_k", "how many tokens are looked at", form=whole(0)),
            Param("top_p", "how probable those looked at are together", form=number(0, 1)),
            Param("frequency_penalty", "against repetition", form=number(-2, 2)),
        ),
        outputs=_TEXTUAL,
    ),
    5100: Schema(
        NAMES[5100],
        (
            _MODEL,
            Param("lora", "weights on top of the model"),
            Param("negative_prompt", "what to avoid"),
            Param("ratio", "of the sides", ("1:1", "4:3", "16:9", "16:10", "3:4", "9:16", "10:16")),
            Param("size", "in pixels, before `ratio`", form=matching(r"\d{1,5}[x:]\d{1,5}", "like 512x512")),
        ),
        links=True,
    ),
    5200: Schema(NAMES[5200], (_RANGE,), input_types=_LINKED, links=True, outputs=_VIDEO),
    5201: Schema(
        NAMES[5201], (_LANGUAGE, _SUBTITLE, _RANGE, Param("format", "of the video")),
        input_types=_LINKED, links=True, outputs=_VIDEO,
    ),
    5202: Schema(NAMES[5202], input_types=_LINKED, links=True),
    5250: Schema(NAMES[5250], (_LANGUAGE,)),
    5300: Schema(NAMES[5300], (_FOR, _RESULTS), inputs_min=0),
    5301: Schema(NAMES[5301], (_FOR, _RESULTS), inputs_min=0),
    5302: Schema(
        NAMES[5302],
        (
            Param("users", "only of these authors: a list of p tags as JSON", count_max=_MANY),
            Param("since", "unix seconds", form=whole(0)),
            Param("until", "unix seconds", form=whole(0)),
            _RESULTS,
        ),
    ),
    5303: Schema(NAMES[5303], (_RESULTS,)),
    5400: Schema(
        NAMES[5400],
        (
            Param("relay", "where to count", form=_RELAY, count_max=_MANY),
            Param("group", "fields or tags to count by", count_max=_MANY),
        ),
        inputs_min=0,
    ),
    5500: Schema(NAMES[5500], input_types=frozenset({"url"}), links=True),
    5900: Schema(NAMES[5900], input_types=frozenset({"event"})),
    5901: Schema(NAMES[5901], input_types=frozenset({"text"}), inputs_max=1, input_bytes_max=80),
    5905: Schema(
        NAMES[5905], (Param("relays", "where to publish", form=_RELAY, count_max=_MANY),),
        input_types=frozenset({"text"}),
    ),
    5970: Schema(
        NAMES[5970], (Param("pow", "leading zero bits", form=whole(1, 256), required=True),),
        input_types=frozenset({"text"}),
    ),
}  # fmt: skip
