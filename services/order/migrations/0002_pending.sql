-- PENDING_STOCK came, the first version that nobody is told of; what 0001 says of such a row's payload no longer holds.
comment on column order_events.type is 'Full name of the message in payload. Null: nobody is told of this version.';
comment on column order_events.payload is 'The event; without a type the order itself, as a shop.order.v1.Order.';
