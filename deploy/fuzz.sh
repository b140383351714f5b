#!/usr/bin/env bash
# Builds the fuzz targets with the stable compiler and runs each: `deploy/fuzz.sh [SECONDS [TARGET…]]`.
# libFuzzer with coverage, without a sanitizer (those need nightly); needs a C++ compiler for libFuzzer itself.
# What a run found worth keeping stays under $CARGO_TARGET_DIR/fuzz and is where the next one begins.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh

seconds=${1:-60}
shift || true
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(basename -s .rs tests/fuzz/fuzz_targets/*.rs)

folder=$CARGO_TARGET_DIR/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes. With --target they are for the fuzzed code only, not for build scripts.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for kind in inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$kind"
done
for target in "${targets[@]}"; do
    RUSTFLAGS="--cfg fuzzing $coverage -Cdebug-assertions -Copt-level=1 -Cdebuginfo=0" \
        CARGO_TARGET_DIR=$folder cargo build --locked --manifest-path tests/fuzz/Cargo.toml \
        --target "$host" --bin "$target"
    mkdir -p "$folder/corpus/$target"
    (cd "$folder" && "$folder/$host/debug/$target" "corpus/$target" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=2048)
done
