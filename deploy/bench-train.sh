#!/usr/bin/env bash
# Training tokens per second and peak memory beside PyTorch (Debian's python3-torch, CPU, f32, all cores) on the
# same architecture, in turns, in one run. Wants an idle machine. OWM_BENCH_ROUNDS (3), OWM_BENCH_STEPS (4).
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
# Some machines preset these; they halve the speed of what is compared with.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS OMP_NUM_THREADS
if ! /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    root=""
    [ "$(id -u)" = 0 ] || root="sudo -n"
    echo "bench: installing python3-torch (600 MB) with apt-get"
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3-torch libopenblas0-pthread >/dev/null 2>&1 || {
        echo "bench: SKIP training beside PyTorch: python3-torch can't be had here"
        exit 0
    }
fi
cargo build --quiet --locked --profile bench-net -p owm-model --example train_speed
ours="$CARGO_TARGET_DIR/bench-net/examples/train_speed"
models=()
if weights_find; then
    deploy/weights-hf.sh
    models+=("SmolLM2-135M=$OWM_CACHE/smollm2-hf")
fi
tiny="$OWM_CACHE/train-tiny"
[ -f "$tiny/model.safetensors" ] || { mkdir -p "$tiny" && "$ours" fresh "$tiny"; }
models+=("0.8M=$tiny")
results=$(mktemp)
trap 'rm -f "$results"' EXIT
for model in "${models[@]}"; do
    name=${model%%=*} dir=${model#*=}
    # Steps, rows, tokens of a row, passes per step.
    shape=("${OWM_BENCH_STEPS:-4}" 1 256 2)
    [ "$name" != 0.8M ] || shape=(40 8 256 2)
    for mode in full low-rank; do
        for round in $(seq "${OWM_BENCH_ROUNDS:-3}"); do
            echo "$name|$mode|ours|$("$ours" "$dir" "$mode" "${shape[@]}")" >>"$results"
            echo "$name|$mode|torch|$(/usr/bin/python3 tests/bench-train/torch_train.py "$dir" "$mode" "${shape[@]}")" \
                >>"$results"
            tail -n 2 "$results" | cut -c 1-110
        done
    done
done
/usr/bin/python3 tests/bench-train/table.py <"$results"
