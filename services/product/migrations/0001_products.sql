-- Names and ids are sorted byte by byte: the order of a page must not change with the locale of a server or its version.

create table products (
  id text collate "C" primary key,
  display_name text collate "C" not null,
  description text not null,
  currency text not null,
  units bigint not null,
  nanos int not null,
  image_uri text not null,
  version bigint not null default 1,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  -- The request that made it, and what it said (a digest: the product itself may change later).
  creator text not null,
  request_id text not null,
  request_fingerprint bytea not null,
  constraint one_product_per_request unique (creator, request_id),
  constraint price_is_positive check (0 <= units and 0 <= nanos and nanos < 1000000000 and 0 < units + nanos)
);

create index products_by_name on products (display_name, id);
