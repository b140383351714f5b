#!/usr/bin/env bash
# The end of `make bench`: what docs/benchmarks.md reports, printed.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
weights_find || exit 3
deploy/bench-engine.sh
cargo build --quiet --locked -p owm-e2e --example questions
export OWM_BIN_DIR="$CARGO_TARGET_DIR/debug"
exec "$CARGO_TARGET_DIR/debug/examples/questions"
