"""What kinds take and give: parameters under all their spellings, inputs, outputs, and what is said of others."""

from dataclasses import replace

import pytest

from dvm import Agent, Param
from dvm.errors import BadRequest
from dvm.kinds import NAMES, kind_of, name_of
from dvm.nip90 import JobRequest, parse_request
from dvm.schemas import SCHEMAS, Others, Schema, schema_of, whole
from identity import SecretKey, make_template, sign_event

KEY = SecretKey.generate()
TEXT = ("i", "some text", "text")
URL = ("i", "https://example.com/a.mp4", "url")
EVENT = ("i", "ab" * 32, "event")
JOB = ("i", "ab" * 32, "job")


def request(*tags: tuple[str, ...], kind: int = 5050) -> JobRequest:
    return parse_request(sign_event(make_template(kind, tags=tags, created_at=1_700_000_000), KEY))


def read(*params: tuple[str, ...], kind: int = 5050) -> dict[str, tuple[str, ...]]:
    return dict(schema_of(kind).read(request(*(("param", *param) for param in params), kind=kind).params))


def test_every_registered_kind_has_a_name_and_rules_and_they_are_found_by_it() -> None:
    registered = {
        5000, 5001, 5002, 5050, 5100, 5200, 5201, 5202, 5250, 5300, 5301, 5302, 5303, 5400, 5500, 5900, 5901, 5905, 5970,
    }  # fmt: skip
    assert set(SCHEMAS) == registered
    assert all(SCHEMAS[kind].name == NAMES[kind] for kind in registered)
    assert [kind_of(name_of(kind)) for kind in NAMES] == list(NAMES)


@pytest.mark.parametrize(
    "word", ["translation", "Translation", "5002", "text-generation", "TEXT_GENERATION", "summarization"]
)
def test_a_kind_is_found_however_it_is_spelled(word: str) -> None:
    assert kind_of(word) in (5001, 5002, 5050)


@pytest.mark.parametrize("word", ["", "juggling", "6002", "5128", "١"])
def test_what_is_no_kind_is_told(word: str) -> None:
    with pytest.raises(BadRequest):
        kind_of(word)


@pytest.mark.parametrize("name", ["top_k", "top-k", "topK", "TOP_K"])
def test_the_agent_sees_one_spelling(name: str) -> None:
    assert read((name, "50")) == {"top_k": ("50",)}


def test_names_that_deployed_clients_have_of_their_own() -> None:
    assert read(("lang", "es"), kind=5002) == {"language": ("es",)}
    assert read(("user", "ab" * 32), kind=5300) == {"p": ("ab" * 32,)}


def test_both_spellings_at_once() -> None:
    assert read(("max_tokens", "9"), ("max-tokens", "9")) == {"max_tokens": ("9",)}
    with pytest.raises(BadRequest, match="max_tokens is given as '9' and as '10'"):
        read(("max_tokens", "9"), ("max-tokens", "10"))
    with pytest.raises(BadRequest, match="max_tokens is given as '' and as '10'"):
        read(("max_tokens",), ("max-tokens", "10"))
    assert read(("relay", "wss://a"), ("Relay", "wss://b"), kind=5400) == {"relay": ("wss://a", "wss://b")}


def test_what_a_kind_does_not_know_passes_through_as_it_came() -> None:
    assert read(("my-own", "x", "y"), ("top-k", "1")) == {"my-own": ("x", "y"), "top_k": ("1",)}


def test_an_empty_value_is_none() -> None:
    assert read(("max_tokens", ""), ("temperature",)) == {"max_tokens": ("",), "temperature": ()}
    with pytest.raises(BadRequest, match="pow is missing"):
        read(("pow", ""), kind=5970)


@pytest.mark.parametrize(
    ("kind", "param", "said"),
    [
        (5050, ("top_p", "7"), "the parameter top_p is '7'; allowed is a number from 0 to 1"),
        (5050, ("temperature", "nan"), "temperature is 'nan'; allowed is a number from 0 to 2"),
        (5050, ("max-tokens", "0"), "max_tokens is '0'; allowed is a whole number, 1 or more"),
        (5050, ("max_tokens", "1e9"), "max_tokens is '1e9'"),
        (5050, ("max_tokens", "9" * 20), "max_tokens is '999"),
        (5050, ("temperature", "1" * 41), "temperature is '111"),
        (5002, ("language", "<b>es"), "language is '<b>es'"),
        (5050, ("max_tokens", "٣"), "max_tokens is '٣'"),
        (5050, ("top_k", "1", "2"), "top_k takes one value, not 2"),
        (5000, ("alignment", "left"), "alignment is 'left'; allowed is one of raw, segment, word"),
        (5000, ("range", "a", "b"), "range is 'a'; allowed is seconds, or hh:mm:ss"),
        (5000, ("range", "1", "2", "3"), "at most 2 values, not 3"),
        (5100, ("ratio", "2:1"), "ratio is '2:1'; allowed is one of 1:1, 4:3"),
        (5100, ("size", "big"), "size is 'big'; allowed is like 512x512"),
        (5300, ("user", "npub1"), "p is 'npub1'; allowed is a public key"),
        (5400, ("relay", "https://x"), "relay is 'https://x'; allowed is the URL of a relay"),
        (5970, ("difficulty", "9"), "the parameter pow is missing; allowed is a whole number from 1 to 256"),
        (5970, ("pow", "1000"), "pow is '1000'"),
        (5002, ("language", "x" * 500), "…'; allowed is a code of ISO 639"),
    ],
)
def test_an_error_names_the_parameter_what_came_and_what_is_allowed(
    kind: int, param: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadRequest) as error:
        read(param, kind=kind)
    assert said in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (5000, (("range", "300", "360"), ("alignment", "raw"))), (5000, (("range", "00:01:10", "1:10:00.5"),)),
        (5001, (("length", "10 paragraphs"),)), (5002, (("language", "pt-BR"),)),
        (5002, (("language", "es-419"),)), (5002, (("language", "Español"),)), (5002, (("language", "中文"),)),
        (5002, (("language", "हिन्दी"),)), (5302, (("since", "1700000000000"),)),
        (5050, (("temperature", ".5"), ("top_p", "1e-3"), ("frequency_penalty", "1."))),
        (5050, (("model", "LLaMA-2"), ("temperature", "0.5"), ("top-p", "0.7"), ("frequency_penalty", "1"))),
        (5100, (("size", "1024x768"), ("negative_prompt", "broken hands, bad quality"))),
        (5301, (("max_results", "200"),)),
        (5302, (("users", '[["p", "ab"]]'), ("since", "1700000000"))), (5400, (("group", "content"), ("group", "p"))),
    ],
)  # fmt: skip
def test_what_the_registry_shows_is_taken(kind: int, params: tuple[tuple[str, ...], ...]) -> None:
    read(*params, kind=kind)


@pytest.mark.parametrize(
    ("kind", "tags", "said"),
    [
        (5050, (), "no input"), (5300, (), ""), (5400, (), ""), (5990, (), ""), (5050, (("i", "hi", "prompt"),), ""),
        (5500, (TEXT,), "malware scan takes inputs of type url, not text"), (5500, (), 'add a tag ["i", …, "url"]'),
        (5900, (TEXT,), "inputs of type event, not text"), (5200, (TEXT,), "of type event or job or url, not text"),
        (5201, (URL, EVENT, JOB), ""), (5901, (TEXT, TEXT), "at most 1 inputs, not 2"),
        (5901, (("i", "é" * 41, "text"),), "80 bytes, not 82"), (5901, (("i", "é" * 40, "text"),), ""),
    ],
)  # fmt: skip
def test_inputs_are_those_of_the_kind(kind: int, tags: tuple[tuple[str, ...], ...], said: str) -> None:
    if not said:
        schema_of(kind).check(request(*tags, kind=kind))
        return
    with pytest.raises(BadRequest) as error:
        schema_of(kind).check(request(*tags, kind=kind))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("kind", "output", "fits"),
    [
        (5200, "audio/mp3", True), (5200, "audio/*", True), (5200, "audio", True), (5200, "*/*", True),
        (5200, "image/png", False), (5200, "text/plain; charset=utf-8", True), (5050, "TEXT/MARKDOWN", True),
        (5050, "application/json", False), (5250, "audio/ogg", True), (5050, "", True), (5050, "tex", False),
    ],
)  # fmt: skip
def test_the_output_is_one_that_the_kind_gives(kind: int, output: str, fits: bool) -> None:
    asked = request(("output", output), kind=kind).outputs
    if fits:
        schema_of(kind)._check_output(asked)
    else:
        with pytest.raises(BadRequest, match=f"the output is to be '{output}'; .* gives one of text/plain"):
            schema_of(kind)._check_output(asked)


def test_one_of_several_outputs_is_enough() -> None:
    for tags in ([("output", "application/json", "text/plain")], [("output", "a/b"), ("output", "text")]):
        schema_of(5050)._check_output(request(*tags).outputs)
    assert request(("output", "text/markdown", "text/plain")).output == "text/markdown"
    with pytest.raises(
        BadRequest, match="the output is to be 'a/b, c/d'; text generation gives one of text/plain"
    ):
        schema_of(5050)._check_output(request(("output", "a/b", "c/d", "")).outputs)


def test_names_that_are_one_in_another_spelling_are_kept_apart_where_a_tool_has_both() -> None:
    both = Schema("tool", others=Others.IGNORED).with_params([Param("top_k"), Param("topK"), Param("to")])
    assert both.read({"topK": ("1",), "top_k": ("2",), "TO": ("3",)}) == {
        "topK": ("1",), "top_k": ("2",), "to": ("3",),
    }  # fmt: skip
    assert "the parameter 'top-k'; tool takes top_k, topK" in both.ignored({"top-k": ("1",)})


def test_an_agents_own_parameters_and_outputs() -> None:
    agent = Agent("Bard")
    models = Param("model", values=("small", "large"), required=True)

    @agent.serves("text-generation", 5, params=[models, Param("mood")], outputs=["application/json"])
    async def write(_job: object) -> str:
        return ""

    @agent.serves(5991, name="haiku")
    async def haiku(_job: object) -> str:
        return ""

    schema = agent.capabilities[5050].schema
    assert [param.name for param in schema.params][-2:] == ["model", "mood"]
    assert schema.read({"MODEL": ("small",), "top-k": ("1",)}) == {"model": ("small",), "top_k": ("1",)}
    for given, said in (
        ({}, "model is missing; allowed is one of small, large"),
        ({"model": ("x",)}, "model is 'x'"),
    ):
        with pytest.raises(BadRequest, match=said):
            schema.read(given)  # type: ignore[arg-type]  # of the empty one nothing is known
    schema.check(request(TEXT, ("param", "model", "small"), ("output", "application/json")))
    assert agent.capabilities[5991].name == "haiku"


def test_what_no_agent_can_serve() -> None:
    agent = Agent("Bard")
    for kind in ("juggling", 6000):
        with pytest.raises(ValueError, match="kind"):
            agent.serves(kind)
    with pytest.raises(ValueError, match="same name"):
        agent.serves(5050, params=[Param("top_k"), Param("top_k")])


def test_reading_no_parameters_costs_nothing() -> None:
    given: dict[str, tuple[str, ...]] = {}
    assert schema_of(5050).read(given) is given
    assert Schema("own").read(given) is given


def test_parameters_that_nobody_named() -> None:
    given = {"max-tokens": ("5",), "tone": ("dry",)}
    passed = Schema("work", (Param("max_tokens", form=whole(1)),))
    assert set(passed.read(given)) == {"max_tokens", "tone"}
    assert passed.ignored(given) == ""
    told = replace(passed, others=Others.IGNORED)
    assert set(told.read(given)) == {"max_tokens", "tone"}
    assert (
        told.ignored(given)
        == "ignored, as nothing here reads it: the parameter 'tone'; work takes max_tokens"
    )
    assert told.ignored({"max_tokens": ("5",)}) == ""
    with pytest.raises(BadRequest, match="there is no parameter 'tone'; work takes max_tokens"):
        replace(passed, others=Others.REFUSED).read(given)
