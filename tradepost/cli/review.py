"""`tradepost review`: say for all to read how a job was that was bought here."""

import asyncio
from typing import Annotated, Final

import typer

from dvm import BadRequest, Customer, Post
from identity import Event
from identity.receipts import RATING_MAX, parse_review
from tradepost.api import open_customer
from tradepost.cli.jobs import JobId, own_order, review_words, reviewed
from tradepost.cli.output import AsJson, print_json, quoted, say
from tradepost.cli.signing import Sec, chosen_key
from tradepost.errors import TradepostError
from tradepost.post import open_post
from tradepost.secrets import CUSTOMER, Key, open_signer
from tradepost.settings import Settings
from wallet import Action, WalletError

SETTLED_SECONDS_MAX: Final = 15.0  # an honest agent has taken its sats in a second or two
LOOK_SECONDS: Final = 0.2


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(review)


def review(
    job_id: JobId,
    rating: Annotated[
        int, typer.Argument(metavar="RATING", min=1, max=RATING_MAX, help="1 … 5; 5 is the best.")
    ],
    text: Annotated[str, typer.Option(metavar="TEXT", help="What you have to say about it.")] = "",
    sec: Sec = "",
    as_json: AsJson = False,
) -> None:
    """Rate a job that you bought, for all to read.

    The review shows that you paid: by the coins the agent has spent, or the preimage of its invoice. It stays.

    Example: `tradepost review 2e98eae4846c 4 --text "quick and correct"`
    """
    settings = Settings.load()
    key = chosen_key(settings, CUSTOMER, sec)
    show_review(asyncio.run(_review(settings, key, job_id.lower(), rating, text)), as_json)


async def _review(settings: Settings, key: Key, prefix: str, rating: int, text: str) -> Event:
    async with open_signer(settings, key) as signer, open_post(settings) as post:
        row = await own_order(post.db, signer.public_key, prefix)
        async with open_customer(settings, post, signer) as customer:
            return await customer.review(row.id, rating, text)


async def review_settled(customer: Customer, post: Post, job_id: str, rating: int) -> Event:
    """Review a job that has its result as soon as the agent has its sats. Raises `TradepostError` if it takes none."""
    until = asyncio.get_running_loop().time() + SETTLED_SECONDS_MAX
    while True:
        try:
            return await customer.review(job_id, rating)
        except (BadRequest, WalletError) as error:
            is_over = asyncio.get_running_loop().time() >= until
            if is_over or error.action not in (Action.WAIT, Action.RETRY_AFTER):
                later = f"`tradepost review {job_id[:12]} {rating}` tries again"
                raise TradepostError(f"the result is there, and not rated: {error}. {later}") from None
        await post.clock.sleep(LOOK_SECONDS)


def show_review(event: Event, as_json: bool) -> None:
    """A review that was written, and what it is worth to readers."""
    request_id, told = parse_review(event).request_id, reviewed(event)
    if as_json:
        print_json({"job": request_id, "step": "reviewed", "review": told, "event": event.to_dict()})
        return
    say(f"[green]● reviewed: {quoted(review_words(told))}[/]")
    if told["evidence"] == "none":
        say("[dim]nothing shows that the agent was paid for it, so readers do not count it[/]")
