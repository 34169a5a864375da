-- Ledger rows may be added, never changed; reservations, tombstones included, stay as long as orders.

create table stock (
  product text primary key,
  on_hand bigint not null,
  reserved bigint not null,
  version bigint not null,
  constraint promised_pieces_are_there check (0 <= reserved and reserved <= on_hand)
);

create table reservations (
  id uuid primary key,
  state text not null check (state in ('HELD', 'EXPIRED', 'CONFIRMED', 'RELEASED')),
  -- Side by side, sorted by product, each product once.
  products text[] not null,
  quantities bigint[] not null check (cardinality(quantities) = cardinality(products) and 0 < all (quantities)),
  expire_time timestamptz,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  constraint only_tombstones_are_empty check (state = 'RELEASED' or (cardinality(products) > 0 and expire_time is not null))
);

create index overdue on reservations (expire_time) where state = 'HELD';

-- One row per change of a product's counters; their sums are the counters.
create table ledger (
  id bigint generated always as identity primary key,
  reservation_id uuid,
  product text not null,
  kind text not null check ((kind = 'ADJUSTED') = (reservation_id is null)),
  on_hand_delta bigint not null,
  reserved_delta bigint not null check (on_hand_delta <> 0 or reserved_delta <> 0),
  create_time timestamptz not null default now()
);

create table adjustments (
  caller text not null,
  request_id text not null,
  product text not null,
  delta bigint not null,
  create_time timestamptz not null default now(),
  primary key (caller, request_id)
);

-- What `shopmesh order`, `demo` and `audit` read.
create view audit_reservations as
  select id as reservation_id, state, expire_time, create_time, update_time from reservations;

create view audit_reservation_lines as
  select id as reservation_id, line.product, line.quantity
  from reservations, unnest(products, quantities) as line (product, quantity);

create view audit_stock as select product, on_hand, reserved from stock;

create view audit_ledger as
  select id, reservation_id, product, kind, on_hand_delta, reserved_delta, create_time from ledger;

do $$ begin
  if exists (select from pg_roles where rolname = 'audit') then
    grant select on audit_reservations, audit_reservation_lines, audit_stock, audit_ledger to audit;
  end if;
end $$;
