create table orders (
  id uuid primary key,
  customer text not null,
  request_id text not null,
  email text not null,
  state text not null,
  state_reason text not null default '',
  version int not null,
  -- [{product, display_name, quantity, units, nanos}]: unit prices, in the currency of the total
  lines jsonb not null,
  total_currency text not null,
  total_units bigint not null,
  total_nanos int not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  -- The settler's: since when Inventory is where this order wants it, and nobody else looks at it before claimed_until.
  settled_time timestamptz,
  claimed_until timestamptz not null default now(),
  attempts int not null default 0,
  last_error text,
  -- The only arbiter of which try of a request placed the order.
  unique (customer, request_id)
);
create index orders_newest on orders (customer, create_time, id);
create index orders_unsettled on orders (claimed_until) where settled_time is null;

-- One row per version of an order: its history, and the outbox. Only ever marked after it was written.
create table order_events (
  order_id uuid not null,
  version int not null,
  -- Full name of the message in payload. A version that nobody is told of has neither, nor an event_id.
  type text,
  event_id uuid,
  payload bytea,
  -- W3C traceparent of what made this version.
  traceparent text,
  -- How often it was unsent after it had been sent: the stream was lost.
  resends int not null default 0,
  create_time timestamptz not null default now(),
  claimed_until timestamptz not null default now(),
  sent_time timestamptz,
  attempts int not null default 0,
  last_error text,
  primary key (order_id, version)
);
create index order_events_unsent on order_events (claimed_until) where sent_time is null and type is not null;

-- When the stream was made that events were last sent to; always one row.
create table event_stream (create_time timestamptz);
insert into event_stream default values;

create view audit_orders as
  select id as order_id, customer, email, state, state_reason, version, total_currency, total_units, total_nanos,
    request_id, create_time, update_time, settled_time
  from orders;

create view audit_order_events as
  select order_id, version, type, event_id, create_time, nullif(claimed_until, create_time) as claimed_until, sent_time,
    attempts, last_error
  from order_events;

do $$
begin
  if exists (select from pg_roles where rolname = 'audit') then
    grant select on audit_orders, audit_order_events to audit;
  end if;
end $$;
