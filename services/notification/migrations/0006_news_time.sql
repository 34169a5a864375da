-- When the order became what the mail tells of: how long customers wait is measured from there. Not of rows of before.
alter table notifications add column news_time timestamptz;
