# nats:alpine: a busybox, with its wget.
ARG BASE
FROM ${BASE} AS base
RUN mkdir -p /made/bin /made/tmp /made/etc/nats && chmod 1777 /made/tmp && install -m 755 /usr/share/busybox /made/bin/busybox && \
    for name in sh wget cat ls ps kill; do ln -s busybox /made/bin/$name; done && \
    cp /etc/passwd /etc/group /made/etc/

FROM scratch
COPY --from=base /made /
COPY nats-server /usr/local/bin/nats-server
COPY nats-server.conf /etc/nats/nats-server.conf
COPY nats-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 4222 8222 6222
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["nats-server", "--config", "/etc/nats/nats-server.conf"]
