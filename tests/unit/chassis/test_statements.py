"""What a span of a statement is called."""

import pytest

from services.chassis.statements import summarised
from services.inventory.store import CONFIRM_HELD, HOLD
from services.notification.store import CLAIM
from services.order.events import CLAIM_EVENTS


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ("begin", "begin"),
        ("select 1", "select"),
        ("select * from stock where product = any($1)", "select stock"),
        ("SELECT * FROM Stock", "SELECT Stock"),
        ("select count(*) from unnest($1::uuid[])", "select"),
        ("update orders set state = $1", "update orders"),
        ("delete from orders using lines where id = $1", "delete orders"),
        (
            "insert into a (id) select id from b join c using (id) on conflict do update set x = 1",
            "insert a select b c",
        ),
        ("select 'delete from orders' -- update stock\n from a where x is distinct from y", "select a"),
        ("with one as (insert into a values (1) returning id) select id from one", "insert a"),
        ("with one as materialized (select id from a) update b set x = 1 from one", "select a update b"),
        ("with one as (select 1 from a), two as (select 2 from a) select from one, two", "select a"),
        (HOLD, "insert reservations select stock update stock insert ledger"),
        (CONFIRM_HELD, "select reservations select stock update stock insert ledger update reservations"),
        (CLAIM, "select notifications update notifications"),
        (CLAIM_EVENTS, "select order_events update order_events"),
        (" ".join(f"select from t{number}" for number in range(100)), None),
    ],
)
def test_a_statement_is_known_by_what_it_does_to_which_tables(query: str, summary: str | None) -> None:
    if summary is None:
        assert len(summarised(query)) == 255
    else:
        assert summarised(query) == summary
