# otel/opentelemetry-collector-contrib: the program, certificates, and nothing else.
FROM scratch
COPY otelcol-contrib /otelcol-contrib
USER 10001
EXPOSE 4317 4318
ENTRYPOINT ["/otelcol-contrib"]
CMD ["--config", "/etc/otelcol-contrib/config.yaml"]
