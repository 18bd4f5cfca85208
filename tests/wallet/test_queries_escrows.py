"""What is asked for every job is served by the index of open escrows: finished ones pile up for ever."""

from store import Database, load_migrations
from wallet import queries_books, queries_escrows
from wallet.escrow import Role


class Explained(Database):
    """Keeps SQLite's plan of each statement."""

    plans: list[str]

    async def all(self, sql, *values):
        self.plans += [row["detail"] for row in await super().all(f"EXPLAIN QUERY PLAN {sql}", *values)]
        return await super().all(sql, *values)


async def test_finished_escrows_are_not_read(tmp_path) -> None:
    async with await Explained.open(tmp_path / "post.db", load_migrations("wallet")) as db:
        assert isinstance(db, Explained)
        for ask in (
            queries_escrows.open_escrows(db, "me", Role.ARBITER),
            queries_escrows.count_open(db, "me", Role.ARBITER),
            queries_books.escrowed_sat(db, "https://mint.test"),
        ):
            db.plans = []
            await ask
            assert "escrows_open" in db.plans[0], db.plans
