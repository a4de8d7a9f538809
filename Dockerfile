# Lorry's image: one program for every role, its engine beside it, llama.cpp's libraries, Valkey and the demo's weights.
#
#   docker build -t lorry .                              CPU
#   docker build -t lorry:cuda --build-arg VARIANT=cuda . NVIDIA (CUDA 13); run it with --gpus all
#
# It runs as an ordinary user, and as process 1 without an init: it reaps its children and drains on SIGTERM, for which
# `docker stop` must leave it time (-t 60).
ARG VARIANT=cpu
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ . ./cmd/lorry-engine

FROM node:22-bookworm-slim AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY runtime.lock.json ./
COPY scripts/runtime scripts/
ARG VARIANT
RUN LORRY_GPU="$([ "$VARIANT" = cpu ] || echo "$VARIANT")" XDG_CACHE_HOME=/tmp/cache scripts/runtime && rm -rf /tmp/cache

FROM debian:12-slim AS cpu
FROM ${CUDA_IMAGE} AS cuda

FROM ${VARIANT}
# libffi is how Go calls llama.cpp; the certificates are for webhooks and remote engines.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libffi8 libstdc++6 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin lorry && install -d -o lorry -m 0700 /data
COPY --from=build /out/lorry /out/lorry-engine /opt/lorry/
COPY --from=runtime /src/runtime /opt/lorry/runtime
COPY deploy/healthcheck /opt/lorry/
RUN ln -s /opt/lorry/lorry /usr/local/bin/lorry
USER 10001
ENV LORRY_DATA=/data LORRY_LISTEN=0.0.0.0:8080
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/opt/lorry/healthcheck"]
ENTRYPOINT ["/opt/lorry/lorry"]
CMD ["up"]
