#!/usr/bin/env bash
# Training tokens per second and peak memory beside PyTorch (Debian's python3-torch, CPU, f32, all cores) on the
# same architecture, in turns, in one run. A step has the same rows for both; each side may cut it into passes in two
# ways (one pass of all rows; several passes), torch also its threads in two ways of waiting for each other
# (OMP_WAIT_POLICY: its default; passive), and counts with its fastest. Wants an idle machine.
# OWM_BENCH_ROUNDS (3), OWM_BENCH_STEPS (4), OWM_BENCH_MODELS (135M 7M 0.8M).
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
. deploy/weights.sh
# Some machines preset these; they halve the speed of what is compared with.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS OMP_NUM_THREADS OMP_WAIT_POLICY
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
wanted=" ${OWM_BENCH_MODELS:-135M 7M 0.8M} "
if [[ $wanted == *" 135M "* ]]; then
    if weights_find; then
        deploy/weights-hf.sh
        models+=("SmolLM2-135M=$OWM_CACHE/smollm2-hf")
    else
        echo "bench: SKIP SmolLM2-135M: its weights can't be had here"
    fi
fi
for size in "7M wide" "0.8M tiny"; do
    read -r name shape <<<"$size"
    [[ $wanted == *" $name "* ]] || continue
    dir="$OWM_CACHE/train-$shape"
    [ -f "$dir/model.safetensors" ] || { mkdir -p "$dir" && "$ours" fresh "$dir" "$shape"; }
    models+=("$name=$dir")
done
results=$(mktemp)
trap 'rm -f "$results"' EXIT
measure() { # WHO COMMAND…
    local who=$1
    shift
    echo "$name|$mode|$who|$form|$("$@" "$dir" "$mode" "$steps" "$rows" "$sequence" "$passes")" >>"$results"
    tail -n 1 "$results" | cut -c 1-110
}
for model in "${models[@]}"; do
    name=${model%%=*} dir=${model#*=}
    # Tokens of a row, steps, and the ways to cut a step into passes: rows×passes.
    sequence=256 steps=${OWM_BENCH_STEPS:-4} forms=(1×2 2×1)
    case $name in
    7M) steps=$((3 * steps)) forms=(4×2 8×1) ;;
    0.8M) steps=$((10 * steps)) forms=(8×2 16×1) ;;
    esac
    for mode in full low-rank; do
        for _ in $(seq "${OWM_BENCH_ROUNDS:-3}"); do
            for form in "${forms[@]}"; do
                rows=${form%×*} passes=${form#*×}
                measure ours "$ours"
                measure torch /usr/bin/python3 tests/bench-train/torch_train.py
                form+=" passive"
                measure torch env OMP_WAIT_POLICY=passive /usr/bin/python3 tests/bench-train/torch_train.py
            done
        done
    done
done
/usr/bin/python3 tests/bench-train/table.py <"$results"
