-- Since when an event that had been sent waits to be sent again.
alter table order_events add column unsent_time timestamptz;

-- `shopmesh resend`: what was sent of one order, or of all orders since a time, goes out again. Returns how many events
-- that are. What was not sent yet goes out anyway.
create function resend(one uuid) returns bigint language sql as $$
  with unsent as (
    update order_events set sent_time = null, resends = resends + 1, claimed_until = create_time, unsent_time = now()
    where order_id = one and sent_time is not null
    returning true
  )
  select count(*) from unsent
$$;

create function resend(since timestamptz) returns bigint language sql as $$
  with unsent as (
    update order_events set sent_time = null, resends = resends + 1, claimed_until = create_time, unsent_time = now()
    where create_time >= since and sent_time is not null
    returning true
  )
  select count(*) from unsent
$$;

-- Whoever may look may not do this.
revoke execute on function resend(uuid), resend(timestamptz) from public;
