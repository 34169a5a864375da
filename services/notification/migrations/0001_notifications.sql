create table notifications (
  id uuid primary key,
  order_id uuid not null,
  kind text not null check (kind in ('ORDER_PLACED', 'ORDER_REJECTED')),
  version bigint not null check (version > 0), -- of the order: the higher, the newer
  customer text not null,
  recipient text not null,
  subject text not null,
  body text not null,
  event_type text not null,
  event_id text not null,
  traceparent text, -- of where the event was heard
  state text not null default 'READY' check (state in ('READY', 'SENDING', 'SENT', 'SUPERSEDED', 'FAILED')),
  -- When somebody may take it: READY, the end of a pause; SENDING, the end of the lease of whoever has it.
  claimable_time timestamptz not null default now(),
  attempts int not null default 0,
  first_attempt_time timestamptz,
  possible_duplicates int not null default 0,
  last_error text,
  -- Of the row, not of the batch that brought it: it orders what customers see.
  create_time timestamptz not null default clock_timestamp(),
  send_time timestamptz,
  constraint inbox unique (order_id, kind)
);

create index due on notifications (claimable_time) where state in ('READY', 'SENDING');
-- Two senders whose snapshots differ could take two of one order: this stops the second.
create unique index one_at_a_time on notifications (order_id) where state = 'SENDING';
create index history on notifications (customer, create_time desc, id desc);

-- What needs a person: events that cannot be understood (with headers and payload), mails that cannot be delivered.
create table dead_letters (
  id uuid primary key,
  notification_id uuid unique references notifications,
  order_id uuid,
  event_type text not null,
  event_id text not null,
  headers jsonb,
  payload bytea,
  reason text not null,
  attempts int not null,
  create_time timestamptz not null default now()
);

create view audit_notifications as
select id as notification_id, order_id, kind, recipient, subject, state, attempts, possible_duplicates, create_time,
  send_time, last_error
from notifications;

do $$
begin
  if exists (select from pg_roles where rolname = 'audit') then
    grant select on audit_notifications to audit;
  end if;
end $$;
