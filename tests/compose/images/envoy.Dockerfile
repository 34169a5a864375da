# envoyproxy/envoy: bash is there, nothing that speaks HTTP.
ARG BASE
FROM ${BASE}
RUN groupadd --gid 101 envoy && useradd --uid 101 --gid 101 --home-dir /home/envoy --create-home envoy
COPY envoy /usr/local/bin/envoy
COPY envoy-entrypoint /docker-entrypoint.sh
EXPOSE 10000
ENTRYPOINT ["/docker-entrypoint.sh"]
CMD ["envoy", "-c", "/etc/envoy/envoy.yaml"]
