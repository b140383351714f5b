#!/usr/bin/env bash
# What the update codec costs in learning: held-out bits per byte over rounds of four nodes, for each way to send a
# step (docs/fl-protocol.md). OWM_BENCH_ROUNDS (12), OWM_BENCH_STEPS (20), OWM_BENCH_SEEDS (3).
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
cargo build --quiet --locked -p owm-model --example rounds
exec "$CARGO_TARGET_DIR/debug/examples/rounds" "$OWM_CACHE/corpora" \
    "${OWM_BENCH_ROUNDS:-12}" "${OWM_BENCH_STEPS:-20}" "${OWM_BENCH_SEEDS:-3}"
