# prom/prometheus: a busybox, the programs in /bin, the user nobody who owns /prometheus.
ARG BASE
FROM ${BASE} AS base
RUN mkdir -p /made/bin /made/etc/prometheus /made/prometheus /made/tmp && chmod 1777 /made/tmp && \
    install -m 755 /usr/share/busybox /made/bin/busybox && \
    for name in sh wget cat ls; do ln -s busybox /made/bin/$name; done && \
    cp /etc/passwd /etc/group /made/etc/ && chown -R nobody:nogroup /made/etc/prometheus /made/prometheus

FROM scratch
COPY --from=base /made /
COPY prometheus promtool /bin/
WORKDIR /prometheus
USER nobody
EXPOSE 9090
VOLUME ["/prometheus"]
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
