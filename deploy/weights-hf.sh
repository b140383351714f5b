#!/usr/bin/env bash
# The real weights as a Hugging Face directory in the cache ($OWM_CACHE/smollm2-hf), made once from
# the GGUF file ($OWM_SMOLLM2_GGUF) by the same importer as `owm-coordinator model import`; made anew
# when the importer changes.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
recipe=$(find coordinator/import/src coordinator/import/examples -name '*.rs' | LC_ALL=C sort |
    xargs cat | sha256sum | cut -c 1-16)
out="$OWM_CACHE/smollm2-hf"
[ "$(cat "$out/.recipe" 2>/dev/null || true)" != "$recipe" ] || exit 0
echo "weights: converting $OWM_SMOLLM2_GGUF once"
rm -rf "$out"
cargo run --quiet --locked -p owm-model-import --example import -- gguf "$OWM_SMOLLM2_GGUF" "$out"
echo "$recipe" >"$out/.recipe"
