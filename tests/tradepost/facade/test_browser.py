"""The page as people use it: Chromium, and the published `lnurl` package as the wallet on their phone."""

import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import lnurl
import pytest
import zxingcpp
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tradepost.facade.desk import Desk
from tradepost.testing import Market

#: Chromium as root, without what it does by itself on the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SECONDS_MAX = 60
SIDE = 300
#: The picture as a camera has it: one byte for each pixel.
GREY = """async (image, side) => {
  await image.decode();
  const canvas = new OffscreenCanvas(side, side).getContext("2d");
  canvas.drawImage(image, 0, 0, side, side);
  const grey = canvas.getImageData(0, 0, side, side).data.filter((_, n) => n % 4 === 0);
  return btoa(Array.from(grey, (value) => String.fromCharCode(value)).join(""));
}"""

pytestmark = [pytest.mark.interop, pytest.mark.process]
expect.set_options(timeout=1000 * SECONDS_MAX)


@dataclass
class Visit:
    """One tab, and what went wrong in it."""

    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def hear(self, said: ConsoleMessage) -> None:
        """What the page, or the browser, says to developers."""
        if said.type in ("error", "warning"):
            self.troubles.append(f"{said.text} {said.location}")

    async def code(self) -> str:
        """What a phone reads from the QR code that is shown."""
        image = self.page.locator(".code-figure img").last
        await expect(image).to_be_visible()
        grey = base64.b64decode(await image.evaluate(GREY, SIDE))
        (found,) = zxingcpp.read_barcodes(memoryview(grey).cast("B", (SIDE, SIDE)), try_invert=False)
        return str(found.text)

    async def sign_in(self, seed: str) -> None:
        """With a wallet whose words give `seed`."""
        await self.page.get_by_role("button", name="Sign in").first.click()
        shown = await self.code()
        link = await self.page.get_by_role("link", name="Open a wallet").get_attribute("href")
        assert link is not None
        assert link.removeprefix("lightning:").upper() == shown
        asked = await lnurl.handle(shown.lower())
        assert isinstance(asked, lnurl.LnurlAuthResponse)
        assert (await lnurl.execute_login(asked, seed=seed)).ok
        await expect(self.page.get_by_role("link", name="Your balance")).to_be_visible()

    async def hire(self, text: str, *, review: bool = False) -> None:
        await self.page.get_by_role("link", name="Hire", exact=True).click()
        await self.page.locator(".offer").first.click()
        await self.page.get_by_label("What it works on").fill(text)
        if review:
            await self.page.get_by_text("More choices").click()
            await self.page.get_by_label("Hold the price in escrow").check()
        await self.page.get_by_role("button", name="Start for 21 sat").click()


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, desk: Desk) -> AsyncIterator[Visit]:
    """A visit during which nothing may go wrong that the browser sees, and nobody else is asked for anything."""
    page = await browser.new_page()
    page.set_default_timeout(1000 * SECONDS_MAX)
    visit = Visit(page, desk.url)
    page.on("console", visit.hear)
    page.on("pageerror", lambda error: visit.troubles.append(str(error)))
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
    await page.goto(desk.url)
    yield visit
    assert visit.hosts == {urlsplit(desk.url).netloc}
    assert await page.evaluate("document.cookie + localStorage.length") == "0"
    await page.close()


async def test_from_the_login_by_qr_code_to_a_paid_result(
    browser: Browser, desk: Desk, market: Market
) -> None:
    async with visiting(browser, desk) as visit:
        page = visit.page
        await visit.sign_in(secrets.token_hex(32))
        await page.get_by_role("link", name="Your balance").click()
        await page.get_by_role("button", name="Make an invoice").click()
        invoice = (await visit.code()).lower()
        assert invoice == await page.get_by_label("Invoice", exact=True).input_value()
        market.mint.pay(invoice)
        await expect(page.locator(".figure")).to_have_text("100 sat")
        await visit.hire("<img src=x onerror=alert(1)> read me")
        await expect(page.locator(".result")).to_have_text("<IMG SRC=X ONERROR=ALERT(1)> READ ME")
        await expect(page.locator(".slip")).to_contain_text("Paid, with fees")
        assert visit.troubles == []


async def test_a_stranger_pays_one_job_with_a_token(
    browser: Browser, desk: Desk, token_of: Callable[[int], Awaitable[str]]
) -> None:
    async with visiting(browser, desk) as visit:
        page = visit.page
        await visit.hire("just this once")
        await page.get_by_role("tab", name="Ecash").click()
        await page.get_by_label("A Cashu token").fill(await token_of(32))
        await page.get_by_role("button", name="Pay with it").click()
        await expect(page.locator(".result")).to_have_text("JUST THIS ONCE")
        await page.get_by_role("link", name="Your balance").click()
        assert (await page.get_by_label("Ticket", exact=True).input_value()).startswith("tpt_")
        (trouble,) = visit.troubles  # the browser itself says so of every such answer
        assert "402 (Payment Required)" in trouble


async def test_a_result_in_escrow_is_read_and_disputed_or_paid_for(
    browser: Browser, hiring_desk: Desk
) -> None:
    async with visiting(browser, hiring_desk) as visit:
        page = visit.page
        await visit.hire("One. Two. Three. Four.", review=True)
        await expect(page.locator(".result")).to_have_text("One. Two. Three")
        await page.get_by_text("Something is wrong with it").click()
        await page.get_by_label("Why").fill("the fourth is missing")
        await page.get_by_role("button", name="Dispute it").click()
        await expect(page.get_by_text("You disputed the result")).to_be_visible()
        await page.get_by_role("button", name="Release the price").click()
        await expect(page.get_by_text("You released the price")).to_be_visible()


#: A request with the token that a tab has, after what it did on opening.
ASK = "import('/static/api.js').then(({call}) => call('GET', '/v1/account')).then(() => 'known', ({status}) => status)"
HAS = "Object.keys(JSON.parse(sessionStorage.tradepost ?? '{}')).sort().join()"
SPOIL = (
    "sessionStorage.tradepost = JSON.stringify({...JSON.parse(sessionStorage.tradepost), access: 'tpa_old'})"
)


async def test_a_session_outlives_a_busy_desk_and_a_copy_of_its_tab(browser: Browser, desk: Desk) -> None:
    async with desk.post.db.transaction() as tx:
        tokens = await desk.sessions.begin(tx, await desk.callers.of_key("nostr:" + "ab" * 32))
    async with visiting(browser, desk) as visit:
        page = visit.page
        kept = {"access": "tpa_old", "refresh": tokens.refresh}
        await page.evaluate("kept => { sessionStorage.tradepost = JSON.stringify(kept) }", kept)
        busy = {"status": 429, "json": {"code": "too_many_requests", "message": "busy", "retry_after": 1}}
        await page.route("**/v1/auth/refresh", lambda route: route.fulfill(**busy))
        await page.reload()
        assert await page.evaluate(ASK) == 429
        assert await page.evaluate(HAS) == "access,refresh"
        await page.unroute("**/v1/auth/refresh")
        async with page.expect_popup() as opened:
            await page.evaluate(f"{SPOIL}; void window.open('/')")
        copy = await opened.value
        assert await copy.evaluate(ASK) == 401
        assert "refresh" not in await copy.evaluate(HAS)
        await page.reload()
        assert await page.evaluate(ASK) == "known"
        row = await desk.post.db.one("SELECT ended FROM sessions")
        assert row
        assert row["ended"] is None
        await copy.close()


async def test_an_invoice_that_expired_is_not_shown_any_more_and_one_asks_again(
    browser: Browser, desk: Desk
) -> None:
    async with visiting(browser, desk) as visit:
        page = visit.page
        await visit.hire("too late")
        await visit.code()
        await page.evaluate("Date.was = Date.now; Date.now = () => 9e15")
        await expect(page.get_by_text("This invoice has expired")).to_be_visible()
        assert await page.locator(".code-figure").count() == 0
        await page.evaluate("Date.now = Date.was")  # the desk's own clock says whether it is another one
        await page.get_by_role("button", name="Try again").click()
        assert (await visit.code()).startswith("LNBC")
        assert await page.locator("dialog").count() == 1
