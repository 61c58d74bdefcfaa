#!/bin/sh
# Write requirements.txt and build-requirements.txt, with a hash of every file, for the image:
#   sh deploy/lock.sh            (needs uv, which `make install` brings; WHEELS: a folder or page
#                                 with the CPU build of torch)
set -e
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
wheels=${WHEELS:-https://download.pytorch.org/whl/cpu/torch/}
torch=$(sed -n 's/^torch==//p' constraints.txt)
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
sed "s/^torch==.*/torch==$torch+cpu/" constraints.txt >"$pins"
compile() {
    "$uv" pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
        --constraint "$pins" --find-links "$wheels" "$@"
}
compile --extra prometheus --extra opentelemetry --output-file deploy/requirements.txt pyproject.toml
echo "hatchling" | compile --output-file deploy/build-requirements.txt -
