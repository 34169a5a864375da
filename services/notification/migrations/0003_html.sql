-- What the mail shows beside the text; none in rows of before there was any, whose mails stay as they were.
alter table notifications add column html text;
