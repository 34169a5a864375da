# grafana/loki: no shell, nothing that speaks HTTP; `loki -health` asks itself. /loki is the user's, 10001.
ARG BASE
FROM ${BASE} AS base
RUN mkdir -p /made/etc/loki /made/loki/rules /made/loki/rules-temp && chown -R 10001:10001 /made/etc/loki /made/loki

FROM scratch
COPY --from=base /made /
COPY loki /usr/bin/loki
USER 10001
EXPOSE 3100
ENTRYPOINT ["/usr/bin/loki"]
CMD ["-config.file=/etc/loki/local-config.yaml"]
