# python:3.13-slim: a Python that was built for this machine.
ARG BASE
FROM ${BASE}
COPY usr-local /usr/local
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN ldconfig && ln -s python3.13 /usr/local/bin/python3 && ln -s python3 /usr/local/bin/python && \
    python -c "import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, zlib" && \
    find /usr/local -name __pycache__ -exec rm -rf {} +
CMD ["python3"]
