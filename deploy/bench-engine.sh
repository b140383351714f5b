#!/usr/bin/env bash
# Part of `make bench`: our engine beside candle and llama.cpp, in turns, on the same weights and at the
# same precision. Fetches the peers by package name into the cache; what can't be had is left out with
# a line. Wants an idle machine. OWM_BENCH_ROUNDS, OWM_BENCH_PROMPT, OWM_BENCH_ANSWER, OWM_BENCH_THREADS.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
weights_find || exit 3
deploy/weights-hf.sh
# Some machines preset these; they halve the speed of what is compared with.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
threads=${OWM_BENCH_THREADS:-$(nproc)}
here=tests/bench-engine
work="$OWM_CACHE/bench-engine"
f16="$OWM_CACHE/smollm2-hf"
mkdir -p "$work"
missing() { echo "bench: $1 can't be had here and is left out${2:+: see $2}"; }

if [ ! -x "$work/venv/bin/python" ] || ! "$work/venv/bin/python" -c 'import gguf, numpy' 2>/dev/null; then
    python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet gguf numpy >"$work/pip.log" 2>&1 || {
        missing "the Python package gguf (without it nothing can be compared)" "$work/pip.log"
        exit 0
    }
fi
python="$work/venv/bin/python"
[ -f "$work/f32/model.safetensors" ] || "$python" "$here/widen_safetensors.py" "$f16" "$work/f32"

cargo build --quiet --locked --workspace --example serve
ours="$CARGO_TARGET_DIR/debug/examples/serve"
native=""
if [ -n "${OWM_BENCH_NATIVE:-}" ]; then
    # Compiles burn once more, with all instructions of this machine (10 CPU minutes).
    RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR="$work/native" \
        cargo build --quiet --locked --release -p owm-model --example serve
    native="$work/native/release/examples/serve"
fi
candle="$work/candle/release/owm-bench-engine"
RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR="$work/candle" \
    cargo build --quiet --locked --release --manifest-path "$here/Cargo.toml" >"$work/candle.log" 2>&1 ||
    { missing "candle" "$work/candle.log"; candle=""; }
llama=""
if command -v npm >/dev/null && { [ -d "$work/node_modules/node-llama-cpp" ] ||
    npm install --prefix "$work" --ignore-scripts --no-audit --no-fund --silent node-llama-cpp >"$work/npm.log" 2>&1; }; then
    cp "$here/llama.mjs" "$work/"
    llama="node $work/llama.mjs"
elif "$work/venv/bin/pip" install --quiet xllamacpp >"$work/pip.log" 2>&1; then
    llama="$python $here/llama_xllamacpp.py"
else
    missing "llama.cpp" "$work/npm.log"
fi

for precision in f32 f16; do
    gguf="$work/SmolLM2-$precision.gguf"
    [ -z "$llama" ] || [ -f "$gguf" ] || "$python" "$here/widen_gguf.py" "$OWM_SMOLLM2_GGUF" "$precision" "$gguf"
    dir=$f16
    [ "$precision" = f16 ] || dir="$work/f32"
    engines=("ours (as make up builds it) $precision=$ours $dir")
    [ -z "$native" ] || engines+=("ours (release, native) $precision=$native $dir")
    [ -z "$candle" ] || engines+=("candle (native) $precision=$candle $f16 $precision")
    [ -z "$llama" ] || engines+=("llama.cpp (prebuilt) $precision=$llama $gguf $threads")
    [ "$precision" = f32 ] || [ -z "$llama" ] ||
        engines+=("llama.cpp Q4_1 *=$llama $OWM_SMOLLM2_GGUF $threads")
    RAYON_NUM_THREADS=$threads "$python" "$here/compare.py" --threads "$threads" \
        --rounds "${OWM_BENCH_ROUNDS:-5}" --prompt "${OWM_BENCH_PROMPT:-512}" \
        --answer "${OWM_BENCH_ANSWER:-128}" "${engines[@]}"
done
