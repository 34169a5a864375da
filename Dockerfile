# One image for every process of the shop (`shopmesh serve order`) and for its operators (`shopmesh audit`).
ARG PYTHON=3.13.11-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# strip: debugging symbols in the wheels' libraries would be a tenth of the image. Any version of it does.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -qq --no-install-recommends binutils >/dev/null
ARG UV_VERSION=0.13.9
RUN pip install --quiet --no-cache-dir --root-user-action=ignore --disable-pip-version-check uv==${UV_VERSION}
# The certificates of the image are those of the way out, also where that is a proxy of somebody's own.
ENV UV_SYSTEM_CERTS=1 REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /build

# What processes run on: without the packages that carry a local shop's infrastructure.
COPY requirements-run.lock .
RUN uv venv --quiet /shopmesh \
 && uv pip sync --quiet --python /shopmesh/bin/python --require-hashes requirements-run.lock \
 && find /shopmesh -name '*.so*' -exec strip --strip-unneeded {} + \
 && find /shopmesh \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete

# What builds the project, and fetches Zipkin Lens, in the versions that are locked.
COPY requirements.lock .
RUN uv venv --quiet /tools \
 && uv pip install --quiet --python /tools/bin/python --constraints requirements.lock hatchling maven-artifact psutil

COPY . .
RUN for project in gen/python .; do \
      uv build --quiet --wheel --no-build-isolation --python /tools/bin/python --out-dir /wheels $project; \
    done \
 && uv pip install --quiet --python /shopmesh/bin/python --no-deps /wheels/*.whl \
 && /shopmesh/bin/python -m compileall -q -x /pygments/ /shopmesh/lib \
 && XDG_CACHE_HOME=/cache /tools/bin/python -m services.cli.local.lens >/dev/null \
 && mkdir -p /cache/shopmesh

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="shopmesh" \
      org.opencontainers.image.description="A shop of four gRPC services on a service mesh: every process of it, and its command." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Volumes that are made over these folders are this user's.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/shopmesh --shell /usr/sbin/nologin shopmesh \
 && install -d -o shopmesh -g shopmesh /var/lib/shopmesh /var/lib/shopmesh/last-good /var/lib/shopmesh/telemetry
COPY --from=build /shopmesh /shopmesh
COPY --from=build /cache/shopmesh /usr/share/shopmesh
# In a container 127.0.0.1 is nobody else's.
ENV PATH=/shopmesh/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SHOPMESH_LISTEN=0.0.0.0:50051 \
    SHOPMESH_ADS_LISTEN=0.0.0.0:18000 \
    SHOPMESH_EDGE_LISTEN=0.0.0.0:8080 \
    SHOPMESH_MESH_LISTEN=0.0.0.0:10000 \
    SHOPMESH_OTLP_LISTEN=0.0.0.0:4317 \
    SHOPMESH_OTLP_HTTP_LISTEN=0.0.0.0:4318 \
    SHOPMESH_TELEMETRY_LISTEN=0.0.0.0:8026 \
    SHOPMESH_TELEMETRY_DIR=/var/lib/shopmesh/telemetry \
    SHOPMESH_STATE_DIR=/var/lib/shopmesh/last-good \
    SHOPMESH_LENS=/usr/share/shopmesh/zipkin-lens-3.4.3.jar
USER 10001:10001
WORKDIR /var/lib/shopmesh
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=6 CMD ["python", "-m", "services.cli.containers.healthy"]
ENTRYPOINT ["shopmesh"]
CMD ["--help"]
