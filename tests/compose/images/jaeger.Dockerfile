# jaegertracing/jaeger: on Alpine, so with a busybox, and the user 10001.
ARG BASE
FROM ${BASE} AS base
RUN mkdir -p /made/bin /made/tmp && chmod 1777 /made/tmp && install -m 755 /usr/share/busybox /made/bin/busybox && \
    for name in sh wget cat ls; do ln -s busybox /made/bin/$name; done

FROM scratch
COPY --from=base /made /
COPY jaeger /cmd/jaeger/jaeger-linux
ENV JAEGER_LISTEN_HOST=0.0.0.0
EXPOSE 4317 4318 13133 16686
VOLUME ["/tmp"]
USER 10001
ENTRYPOINT ["/cmd/jaeger/jaeger-linux"]
