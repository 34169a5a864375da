-- An archived product keeps its name and what was ordered of it; it is only no longer on offer.

alter table products add column archived boolean not null default false;
