#!/usr/bin/env bash
# `make demo-train`: training on this machine, for people to see. First a small model that knows nothing, for a
# minute on Rust sources; then the real model (where its weights can be had) with low-rank updates, on
# geography and on code: bits per byte of held-out text and one continuation, before and after.
# OWM_DEMO_SECONDS (60), OWM_DEMO_STEPS (20), OWM_DEMO_OUT (a new folder, or an empty one; by default one under the
# temporary folder).
set -euo pipefail
out=$(realpath -m "${OWM_DEMO_OUT:-$(mktemp -d "${TMPDIR:-/tmp}/owm-demo-train.XXXXXX")}")
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
    echo "demo: $out is not empty; set OWM_DEMO_OUT to a new folder, nothing is deleted for a demonstration" >&2
    exit 1
fi
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
cargo build --quiet --locked -p owm-node
node="$CARGO_TARGET_DIR/debug/owm-node"
cache="$OWM_CACHE/corpora"
mkdir -p "$out"

echo "demo: a small model that knows nothing yet, ${OWM_DEMO_SECONDS:-60} s on Rust sources"
"$node" train --model tiny --corpus owm-code --cache "$cache" --for "${OWM_DEMO_SECONDS:-60}s" --steps 100000 \
    --prompt "pub fn " --out "$out/tiny"

if ! weights_find; then
    echo "demo: SKIP the real model: its weights can't be had here"
    exit 0
fi
deploy/weights-hf.sh
real() { # NAME CORPUS PROMPT
    echo "demo: SmolLM2-135M, low-rank updates, ${OWM_DEMO_STEPS:-20} steps on $2"
    "$node" train --model "$OWM_CACHE/smollm2-hf" --corpus "$2" --cache "$cache" --mode lora \
        --steps "${OWM_DEMO_STEPS:-20}" --sequence 256 --batch 2 --held-out-bytes 16384 \
        --prompt "$3" --out "$out/$1"
}
real geo owm-geo "Geography, Location: "
real code owm-code "/// Returns the number of "
echo "demo: the trained models are in $out; ask one: owm-node ask --folder $out/geo \"What is a fjord?\""
