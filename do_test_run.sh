#!/usr/bin/env bash
# Builds the image, scores test/input/interface_0 in it as Grand Challenge would, and checks the
# answer. Files in weights/ appear in the container at /opt/ml/model. Arguments go to do_build.sh, such
# as --target invoke: that image is called over HTTP.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
output=$here/test/output/interface_0
answer=likelihood-of-bladder-cancer-recurrence.json

"$here/do_build.sh" "$@"

rm -rf "$output"
mkdir -p "$output"
chmod 777 "$output" # the container's user is not the one who runs this script

scratch=$(docker volume create)
trap 'docker volume rm "$scratch" >/dev/null' EXIT

options=(--rm --platform=linux/amd64 --network none
    --volume "$here/test/input/interface_0:/input:ro"
    --volume "$output:/output"
    --volume "$scratch:/tmp")
if [[ -d $here/weights ]]; then
    options+=(--volume "$here/weights:/opt/ml/model:ro")
fi
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q nvidia; then
    options+=(--gpus all)
fi

api=$(docker image inspect --format '{{index .Config.Labels "org.grand-challenge.api-method"}}' trisurv)
echo "Scoring test/input/interface_0 ($api)"
if [[ $api == invoke ]]; then
    container=$(docker run --detach "${options[@]}" trisurv)
    trap 'docker stop -t 5 "$container" >/dev/null; docker volume rm "$scratch" >/dev/null' EXIT
    docker logs --follow "$container" &
    request() { # METHOD PATH, from inside: there is no network
        docker exec "$container" python -c 'import sys, urllib.request as web
method, path = sys.argv[1:]
call = web.Request(f"http://127.0.0.1:4743{path}", method=method)
print(path, web.urlopen(call).status)' "$@"
    }
    until request GET /health 2>/dev/null; do
        docker container inspect "$container" >/dev/null # gone when loading failed
        sleep 1
    done
    [[ $(request POST /invoke) == "/invoke 201" ]]
else
    docker run "${options[@]}" trisurv
fi

written=$(cd "$output" && find . -type f)
if [[ $written != "./$answer" ]]; then
    echo "expected $answer alone in $output, found: ${written:-nothing}" >&2
    exit 1
fi
months=$(<"$output/$answer")
if [[ ! $months =~ ^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$ ]]; then
    echo "expected one finite JSON number in $output/$answer, found: $months" >&2
    exit 1
fi
printf 'Predicted time to recurrence: %.1f months\n' "$months"
