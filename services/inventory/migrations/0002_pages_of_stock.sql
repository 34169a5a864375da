-- Pages are sorted byte by byte: their order must not change with the locale of a server or its version. (An index of its
-- own, since another collation of the column would break the statements that running replicas have prepared.)

create index stock_by_product on stock (product collate "C");
