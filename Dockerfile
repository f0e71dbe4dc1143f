# `motivnet serve` in a container: the small model on the CPU, without torch. It pins and copies, and does nothing else.
#
#     docker build --tag motivnet .
#     docker run --rm --publish 127.0.0.1:8000:8000 --env MOTIVNET_TOKEN motivnet
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /build
COPY requirements/build.txt requirements/serve.txt ./
# What is installed, and what builds it, is what was tested, byte for byte.
RUN pip install --no-cache-dir --require-hashes -r build.txt \
    && python -m venv /opt/motivnet \
    && /opt/motivnet/bin/pip install --no-cache-dir --require-hashes -r serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --no-build-isolation . && /opt/motivnet/bin/pip install --no-deps *.whl

FROM python:3.11.13-slim-bookworm
COPY --from=build /opt/motivnet /opt/motivnet
ENV PATH=/opt/motivnet/bin:$PATH
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["motivnet", "serve"]
# Within the container only: what reaches it from outside, --publish says. Without a token it refuses to start.
CMD ["--host", "0.0.0.0", "--port", "8000"]
