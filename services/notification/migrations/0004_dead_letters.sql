-- A dead letter leaves the list, its row stays: what was ended once is so for whoever asks again, and for an event that
-- comes again.
alter table dead_letters
  add column state text not null default 'OPEN' check (state in ('OPEN', 'REDRIVEN', 'DISCARDED'));
create index open_dead_letters on dead_letters (create_time desc, id desc) where state = 'OPEN';

-- Pauses grow from here; the attempts themselves are never counted anew, because their number says whose claim it is.
alter table notifications add column attempts_before_redrive int not null default 0;

create view audit_dead_letters as
select id as dead_letter_id, notification_id, order_id, event_type, event_id, headers, payload, reason, attempts, state,
  create_time
from dead_letters;

do $$
begin
  if exists (select from pg_roles where rolname = 'audit') then
    grant select on audit_dead_letters to audit;
  end if;
end $$;
