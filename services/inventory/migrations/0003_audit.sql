-- What `shopmesh audit` compares. Its look at the last day finds the rows of that day by their place in the table; an
-- index of ranges costs nothing to speak of when a row is added.

create index reservations_by_time on reservations using brin (create_time);
create index ledger_by_time on ledger using brin (create_time);

create or replace view audit_reservations as
  select id as reservation_id, state, expire_time, create_time, update_time, products, quantities from reservations;
