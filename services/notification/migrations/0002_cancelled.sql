alter table notifications
  drop constraint notifications_kind_check,
  add constraint notifications_kind_check check (kind in ('ORDER_PLACED', 'ORDER_REJECTED', 'ORDER_CANCELLED'));
