-- What `shopmesh audit` compares. Its look at the last day finds the rows of that day by their place in the table; an
-- index of ranges costs nothing to speak of when a row is added.

create index notifications_by_time on notifications using brin (create_time);

create or replace view audit_notifications as
select id as notification_id, order_id, kind, recipient, subject, state, attempts, possible_duplicates, create_time,
  send_time, last_error, customer, version, event_type, event_id, claimable_time, first_attempt_time, traceparent
from notifications;
