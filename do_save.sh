#!/usr/bin/env bash
# Writes the two files to upload to Grand Challenge: the image, and weights/ (when it holds files) as
# the model that the platform unpacks to /opt/ml/model. Arguments go to do_build.sh.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
image=$here/trisurv_$(date +%Y%m%d_%H%M%S).tar.gz
model=$here/model.tar.gz

"$here/do_build.sh" "$@"

trap 'rm -f "$image.part" "$model.part"' EXIT
echo "Saving the image to $image"
docker save trisurv | gzip -c >"$image.part"
mv "$image.part" "$image"

if [[ -n $(find "$here/weights" -type f -print -quit 2>/dev/null) ]]; then
    echo "Saving weights/ to $model"
    tar -czf "$model.part" -C "$here/weights" .
    mv "$model.part" "$model"
else
    echo "weights/ holds no files: no model.tar.gz, the image answers with its own bundle"
fi
