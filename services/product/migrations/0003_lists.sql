-- What ListProducts stands on. For each order two indexes: a page without archived products must not read past them.
-- Whoever writes to the catalogue waits until this migration is done.

-- Comes with PostgreSQL, and whoever owns the database may create it.
create extension if not exists pg_trgm;

alter table products
  alter column currency type text collate "C",
  add column words tsvector not null generated always as (to_tsvector('english', display_name || ' ' || description)) stored;

create index products_on_offer_by_name on products (display_name, id) where not archived;
create index products_by_price on products (currency, units, nanos, id);
create index products_on_offer_by_price on products (currency, units, nanos, id) where not archived;
create index products_by_time on products (create_time, id);
create index products_on_offer_by_time on products (create_time, id) where not archived;

-- Readers are many and writers few: new entries go straight into the index, not to a list that each reader goes through.
create index products_by_words on products using gin (words) with (fastupdate = off);
create index products_by_trigrams on products using gin (display_name gin_trgm_ops) with (fastupdate = off);
