#!/usr/bin/env bash
# The end of `make up`: the weights once, then the network in the foreground.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
weights_find || true
exec "$CARGO_TARGET_DIR/debug/owm-devnet" up "$@"
