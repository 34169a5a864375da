# axllent/mailpit: the program; `mailpit readyz` is its health check, as in the official image.
ARG BASE
FROM ${BASE} AS base
RUN mkdir -p /made/bin /made/tmp /made/etc && chmod 1777 /made/tmp && install -m 755 /usr/share/busybox /made/bin/busybox && \
    for name in sh wget cat ls; do ln -s busybox /made/bin/$name; done && cp /etc/passwd /etc/group /made/etc/

FROM scratch
COPY --from=base /made /
COPY mailpit /mailpit
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 1025/tcp 1110/tcp 8025/tcp
HEALTHCHECK --interval=15s --start-period=10s CMD ["/mailpit", "readyz"]
ENTRYPOINT ["/mailpit"]
