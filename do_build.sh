#!/usr/bin/env bash
# Builds the algorithm's image, `trisurv`. Further arguments go to `docker build`, such as
# --build-arg BASE_IMAGE=... or --target invoke.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

docker build --platform=linux/amd64 --tag trisurv "$@" "$here"
