-- What `shopmesh audit` compares. Its look at the last day finds the rows of that day by their place in the table; an
-- index of ranges costs nothing to speak of when a row is added.

create index orders_by_time on orders using brin (create_time);
create index order_events_by_time on order_events using brin (create_time);

create or replace view audit_orders as
  select id as order_id, customer, email, state, state_reason, version, total_currency, total_units, total_nanos,
    request_id, create_time, update_time, settled_time, claimed_until, attempts, last_error, lines
  from orders;

create or replace view audit_order_events as
  select order_id, version, type, event_id, create_time, nullif(claimed_until, create_time) as claimed_until, sent_time,
    attempts, last_error, resends, unsent_time, traceparent, payload
  from order_events;

create view audit_event_stream as select create_time from event_stream;

do $$
begin
  if exists (select from pg_roles where rolname = 'audit') then
    grant select on audit_event_stream to audit;
  end if;
end $$;
