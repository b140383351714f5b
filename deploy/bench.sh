#!/usr/bin/env bash
# The end of `make bench`: what docs/benchmarks.md reports, printed. First questions to the real model
# (skipped where its weights can't be had), then load on a coordinator and gossip among peers
# (`bench-net`, an optimised build).
# `OWM_BENCH=load,storm` runs only those scenarios of the second part.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
if [ -z "${OWM_BENCH:-}" ]; then
    if weights_find; then
        deploy/bench-engine.sh
        cargo build --quiet --locked --workspace --example questions
        OWM_BIN_DIR="$CARGO_TARGET_DIR/debug" "$CARGO_TARGET_DIR/debug/examples/questions"
    else
        echo "bench: SKIP the engine and the ten questions: the real weights can't be had here"
    fi
fi
echo "bench: building the programs optimised (minutes, the first time)"
cargo build --quiet --locked --profile bench-net -p owm-coordinator -p owm-bench
IFS=, read -r -a scenarios <<<"${OWM_BENCH:-}"
exec "$CARGO_TARGET_DIR/bench-net/owm-bench" "${scenarios[@]}"
