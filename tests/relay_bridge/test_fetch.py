"""The guarded fetcher, against a real HTTP server on loopback that means ill."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from relay_bridge import addresses
from relay_bridge.errors import FetchFailed
from relay_bridge.fetch import REDIRECTS_MAX, Document, Fetcher, check_url

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIMIT = 10_000
PUBLIC = "127.0.0.2"  # stands for the internet in these tests; 127.0.0.1 stays what it is


class Site:
    """One server; `pages` says what it answers."""

    def __init__(self) -> None:
        self.pages: dict[str, Handle] = {}
        self.asked: list[web.Request] = []
        self.port = 0
        self.closing = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self.pages[request.path](request)

    def says(self, path: str, body: bytes | str, status: int = 200, **headers: str) -> str:
        """Let `path` answer with `body`; returns its URL."""

        async def handle(_: web.Request) -> web.Response:
            raw = body.encode() if isinstance(body, str) else body
            return web.Response(
                body=raw, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )

        self.pages[path] = handle
        return self.url(path)

    def redirects(self, path: str, to: str, status: int = 302) -> str:
        return self.says(path, b"", status, Location=to)

    def url(self, path: str, host: str = "site.test") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.answer), shutdown_timeout=0.1)
    await runner.setup()
    tcp = web.TCPSite(runner, PUBLIC, 0)
    await tcp.start()
    site.port = runner.addresses[0][1]
    yield site
    site.closing.set()
    await runner.cleanup()


class Names:
    """A name server: what it says, and what it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, list[list[str]]] = {"site.test": [[PUBLIC]]}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host[0].isdigit() or ":" in host:
            return await addresses.resolve(host, port)
        answers = self.known.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def fetch(names: Names, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Document]]:
    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == PUBLIC or is_public(address))
    fetcher = Fetcher(resolve=names)

    async def get(url: str, *, bytes_max: int = LIMIT, seconds_max: float = 10) -> Document:
        return await fetcher.text(url, bytes_max=bytes_max, seconds_max=seconds_max)

    return get


Fetch = Callable[..., Awaitable[Document]]


async def test_text_comes_with_its_type_and_place(site: Site, fetch: Fetch) -> None:
    url = site.says("/a", "grüße", Content_Type="Text/HTML; charset=utf-8")
    assert await fetch(url + "#part") == Document(url, "text/html", "grüße")
    [request] = site.asked
    assert request.headers["Host"] == f"site.test:{site.port}"
    assert "Cookie" not in request.headers


@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("iso-8859-1", "grüße".encode("latin1")), ("windows-1252", "grüße".encode("cp1252")), ("UTF8", "grüße".encode()),
        ("utf-16", "grüße".encode("utf-16")), ("utf-8", "\ufeffgrüße".encode()),
    ],
)  # fmt: skip
async def test_charsets(site: Site, fetch: Fetch, charset: str, body: bytes) -> None:
    url = site.says("/", body, Content_Type=f"text/plain; charset={charset}")
    assert (await fetch(url)).text == "grüße"


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "image/png"), (b"a\x00b", "text/plain"), (b"\xff\xfe\xfd", "text/plain"),
        (b"abc", "text/plain; charset=idna"), (b"abc", "text/plain; charset=zip"), (b"abc", "text/plain; charset=nonsense"),
    ],
)  # fmt: skip
async def test_what_is_not_text_is_said_to_be_so(site: Site, fetch: Fetch, body: bytes, type_: str) -> None:
    url = site.says("/", body, Content_Type=type_)
    with pytest.raises(FetchFailed, match=r"sends (image/png|text/plain), which is not text"):
        await fetch(url)


async def test_redirects_are_followed_a_few_times(site: Site, fetch: Fetch) -> None:
    site.says("/end", "there")
    for hop in range(REDIRECTS_MAX):
        to = f"/{hop + 1}" if hop < REDIRECTS_MAX - 1 else "/end"
        site.redirects(f"/{hop}", to, [301, 302, 303, 307, 308][hop])
    assert (await fetch(site.url("/0"))).url == site.url("/end")
    site.redirects("/round", "/round")
    with pytest.raises(FetchFailed, match="more than 5 times"):
        await fetch(site.url("/round"))


async def test_a_redirect_to_what_is_no_url_is_not_followed(site: Site, fetch: Fetch) -> None:
    with pytest.raises(FetchFailed, match="broken"):
        await fetch(site.redirects("/", "http://[:]@"))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret", "http://localhost:{port}/secret", "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret", "http://2130706433:{port}/secret", "http://169.254.169.254/latest/meta-data",
        "http://inside.test:{port}/secret", "//127.0.0.1:{port}/secret", "file:///etc/passwd", "ftp://site.test/", "",
        "http://user:password@site.test:{port}/secret", "http://no.such.name/", "gopher://127.0.0.1/",
    ],
)  # fmt: skip
async def test_a_redirect_into_our_own_network_is_not_followed(
    site: Site, names: Names, fetch: Fetch, target: str
) -> None:
    names.known["inside.test"] = [["10.0.0.7"]]
    names.known["localhost"] = [["127.0.0.1"]]
    site.says("/secret", "secret")
    site.redirects("/", target.format(port=site.port))
    with pytest.raises(FetchFailed) as error:
        await fetch(site.url("/"))
    assert "secret" not in str(error.value).partition("fetched:")[2]
    assert [request.path for request in site.asked] in (["/"], ["/"] * (REDIRECTS_MAX + 1))


@pytest.mark.parametrize("answers", [["10.0.0.7"], [PUBLIC, "10.0.0.7"], ["::ffff:10.0.0.7"], []])
async def test_a_name_that_leads_inside_is_as_good_as_no_name(
    names: Names, fetch: Fetch, answers: list[str]
) -> None:
    names.known["evil.test"] = [answers]
    with pytest.raises(FetchFailed) as inside:
        await fetch("http://evil.test/")
    with pytest.raises(FetchFailed) as unknown:
        await fetch("http://none.test/")
    assert str(inside.value).replace("evil", "none") == str(unknown.value)


async def test_the_name_is_asked_once_and_its_answer_kept_to(site: Site, names: Names, fetch: Fetch) -> None:
    names.known["site.test"] = [[PUBLIC], ["127.0.0.1"]]  # DNS rebinding: the second answer leads inside
    assert (await fetch(site.says("/", "public"))).text == "public"
    assert names.asked == ["site.test"]


async def test_no_proxy_of_the_environment_is_used(
    site: Site, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await fetch(site.says("/", "direct"))).text == "direct"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
async def test_the_limit_is_exact(site: Site, fetch: Fetch, size: int) -> None:
    plain, packed = (
        site.says("/p", b"a" * size),
        site.says("/z", gzip.compress(b"a" * size), Content_Encoding="gzip"),
    )
    for url in (plain, packed):
        if size <= LIMIT:
            assert len((await fetch(url)).text) == size
        else:
            with pytest.raises(FetchFailed, match="more than 10000 bytes"):
                await fetch(url)


async def test_an_endless_body_is_cut_off(site: Site, fetch: Fetch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"a" * 1000)

    site.pages["/"] = endless
    with pytest.raises(FetchFailed, match="more than"):
        await fetch(site.url("/"))


@pytest.mark.parametrize("part", ["headers", "body"])
async def test_a_server_that_takes_its_time_is_left(site: Site, fetch: Fetch, part: str) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if part == "body":
            await response.prepare(request)
            await response.write(b"a")
        await site.closing.wait()
        return response

    site.pages["/"] = slow
    with pytest.raises(FetchFailed, match=r"longer than 0\.2 s"):
        await fetch(site.url("/"), seconds_max=0.2)


async def test_a_bomb_is_unpacked_no_further_than_the_limit(site: Site, fetch: Fetch) -> None:
    bomb = gzip.compress(b"\0" * 9_000_000)
    assert len(bomb) < LIMIT
    with pytest.raises(FetchFailed, match="more than"):
        await fetch(site.says("/", bomb, Content_Encoding="gzip"))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(gzip.compress(b"text", mtime=0)[:-9], "gzip"), (b"rubbish", "gzip"), (b"text", "br")],
)
async def test_packing_that_is_broken_or_unasked_for(
    site: Site, fetch: Fetch, body: bytes, encoding: str
) -> None:
    with pytest.raises(FetchFailed):
        await fetch(site.says("/", body, Content_Encoding=encoding))


@pytest.mark.parametrize("status", [400, 404, 500, 304, 204])
async def test_other_answers(site: Site, fetch: Fetch, status: int) -> None:
    url = site.says("/", b"", status)
    if status == 204:
        assert (await fetch(url)).text == ""
    else:
        with pytest.raises(FetchFailed, match=f"answered {status}"):
            await fetch(url)


async def test_nobody_listens(site: Site, fetch: Fetch, free_port: int) -> None:
    with pytest.raises(FetchFailed, match="broken"):
        await fetch(f"http://site.test:{free_port}/")


@pytest.mark.parametrize(
    "url",
    [
        "", "text", "https://", "https:///path", "file:///etc/passwd", "javascript:alert(1)", "data:text/plain,a", "wss://relay",
        "http://a:b@host/", "http://a@host/", "http://host:99999/", "http://[::1", "https://" + "a" * 3000,
        "http://[:]@", "http://[a.example:1]/", "http://[:1]", "http://[:]:80", "http://a b/", "http://a\x01b/", "https://a.example/" + "é" * 400,
    ],
)  # fmt: skip
def test_urls_that_are_never_fetched(url: str) -> None:
    with pytest.raises(FetchFailed):
        check_url(url)


async def test_our_own_network_may_be_allowed(site: Site) -> None:
    url = site.says("/", "mine").replace("site.test", PUBLIC)
    assert (await Fetcher(allow_private=True).text(url, bytes_max=10, seconds_max=5)).text == "mine"
    with pytest.raises(FetchFailed, match="not on the public internet"):
        await Fetcher().text(url, bytes_max=10, seconds_max=5)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "169.254.169.254", "172.16.0.1", "192.0.0.192",
        "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::7f00:1",
        "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::", "fc00::1", "fd00:ec2::254", "fe80::1%eth0", "fec0::1",
        "ff02::1", "5f00::1", "2001:db8::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not addresses.is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert addresses.is_public(address)


async def test_an_answer_counts_whatever_its_status_and_comes_from_whom_was_asked(
    site: Site, names: Names
) -> None:
    names.known["other.test"] = [["127.0.0.1"]]
    fetcher = Fetcher(allow_private=True, resolve=names)
    said = site.says("/error", '{"status": "ERROR"}', 404)
    assert (await fetcher.answer(said, bytes_max=LIMIT, seconds_max=10)).text == '{"status": "ERROR"}'
    assert (await fetcher.answer(site.redirects("/moved", said), bytes_max=LIMIT, seconds_max=10)).url == said
    for away in (site.url("/error", "other.test"), "http://site.test:1/error", "https://site.test/error"):
        with pytest.raises(FetchFailed, match="another host"):
            await fetcher.answer(site.redirects("/away", away), bytes_max=LIMIT, seconds_max=10)


async def test_what_is_asked_for_is_in_no_error(site: Site, names: Names) -> None:
    fetcher = Fetcher(resolve=names)
    with pytest.raises(FetchFailed, match=r"^site\.test was not fetched") as told:
        await fetcher.answer(site.url("/secret?k1=secret"), bytes_max=LIMIT, seconds_max=10)
    assert "secret" not in str(told.value)
