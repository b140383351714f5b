#!/usr/bin/env bash
# All tests, on a private Postgres that is gone afterwards. `make test` calls it; CI through .ci/run.
# Ends with a line "N passed, N failed, N skipped", which it also leaves in
# $CARGO_TARGET_DIR/owm-test-counts.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

if [ "${1:-}" != --inside ]; then
    . deploy/weights.sh
    echo "test: building the programs"
    cargo build --locked -p owm-coordinator -p owm-node -p owm-devnet
    if weights_find && deploy/weights-hf.sh; then
        export OWM_SMOLLM2_DIR="$OWM_CACHE/smollm2-hf"
    else
        unset OWM_SMOLLM2_GGUF OWM_SMOLLM2_DIR
    fi
    OWM_OPENAI_PYTHON=$(deploy/openai-venv.sh "$OWM_CACHE") || OWM_OPENAI_PYTHON=
    export OWM_OPENAI_PYTHON
    OWM_CHROMIUM=${OWM_CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
    export OWM_CHROMIUM
    exec "$CARGO_TARGET_DIR/debug/owm-devnet" pg-run -- deploy/test.sh --inside
fi

passed=0 failed=0 skipped=0 broken=0 ran=0 skip=0
output=$(mktemp)
failures=$(mktemp)
trap 'rm -f "$output" "$failures"' EXIT

# What failed, and the words it failed with: of a log of nextest the list after its summary, of cargo
# test the lines "test … FAILED"; no stack traces, 12 lines for each panic.
said() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^ *Summary \[.*tests? run:/ { summary = 1; next }
        /^ *(FAIL|TIMEOUT|ABORT|SIG[A-Z]+|LEAK-FAIL|XFAIL) .*\[ *[0-9.]+s\]/ && summary { print; next }
        /^ *FLAKY / && summary { print; next }
        /^ *test .* \.\.\. FAILED$/ && !nextest { print; next }
        / panicked at / && !/^ *(at|in) / { left = 12 }
        /^ *(stack backtrace:|note: run with)/ { left = 0 }
        left > 0 && (summary || !nextest) { print "    " substr($0, 1, 400); left-- }
        /Nextest run ID/ { nextest = 1 }'
}

# Runs a test command and adds what it counted. nextest: "Summary [1s] 9 tests run: 8 passed, 1
# failed, 2 skipped"; cargo test: "test result: ok. 8 passed; 1 failed; 2 ignored; …" for each binary.
# Leaves its own numbers in `ran` and `skip`.
count() {
    local status=0 run ok
    "$@" 2>&1 | tee "$output" || status=$?
    read -r run ok skip < <(sed 's/\x1b\[[0-9;]*m//g' "$output" | awk '
        /^ *Summary \[.*tests? run:/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^tests?$/ && $(i + 1) == "run:") run += $(i - 1)
                if ($i ~ /^passed/) ok += $(i - 1)
                if ($i ~ /^skipped/) skip += $(i - 1)
            }
        }
        /^test result: / {
            for (i = 2; i <= NF; i++) {
                if ($i == "passed;") { ok += $(i - 1); run += $(i - 1) }
                if ($i == "failed;") run += $(i - 1)
                if ($i == "ignored;") skip += $(i - 1)
            }
        }
        END { print run + 0, ok + 0, skip + 0 }')
    said "$output" >>"$failures"
    ran=$run
    passed=$((passed + ok))
    failed=$((failed + run - ok))
    [ "$status" = 0 ] || broken=1
}

# Tests that are left out unless what they need is there, by their names' first words.
extra=()
if [ -n "${OWM_SMOLLM2_GGUF:-}" ]; then
    extra+=(real_weights_)
else
    echo "SKIP real_weights_*: the real weights can't be had here"
fi
if [ -n "${OWM_OPENAI_PYTHON:-}" ]; then
    extra+=(openai_client_)
else
    echo "SKIP openai_client_*: the Python package openai can't be had here"
fi
if command -v systemd-analyze >/dev/null; then
    extra+=(units_)
else
    echo "SKIP units_*: systemd-analyze is not installed (Debian package systemd)"
fi
if [ -n "${OWM_CHROMIUM:-}" ]; then
    extra+=(browser_)
else
    echo "SKIP browser_*: there is no Chromium here (Debian: apt-get install --no-install-recommends chromium)"
fi
# A full disk is a real one, mounted for the test: in a namespace of its own, and as root.
small=$(mktemp -d)
if unshare -rm true 2>/dev/null && mount -t tmpfs -o size=64k tmpfs "$small" 2>/dev/null; then
    umount "$small"
    extra+=(mounts_)
else
    echo "SKIP mounts_*: this user may not mount a small disk"
fi
rmdir "$small"
# Peers behind NAT: in network namespaces with routers in them, which takes root's rights.
PATH="$PATH:/usr/sbin:/sbin"
if unshare -n sh -c 'ip link add veth0 type veth peer name veth1 && ip link add segment type bridge &&
    echo "table ip t { chain c { type nat hook postrouting priority srcnat; masquerade; }; }" | nft -f - &&
    echo 1 >/proc/sys/net/ipv4/ip_forward' >/dev/null 2>&1; then
    extra+=(netns_)
else
    echo "SKIP netns_*: this user may not make network namespaces and routers (or Debian's iproute2 and" \
        "nftables are missing)"
fi
[ -z "${OWM_TEST_LONG:-}" ] || extra+=(long_)
names=$(IFS='|'; echo "${extra[*]}")

if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    [ -z "${OWM_TEST_LONG:-}" ] || profile=long
    count cargo nextest run --locked --workspace --profile "$profile"
    skipped=$skip
    if [ -n "$names" ]; then
        count cargo nextest run --locked --workspace --profile "$profile" --no-tests pass \
            --run-ignored only -E "test(/(^|::)($names)/)"
        skipped=$((skipped - ran))
    fi
    count cargo test --locked --workspace --doc --no-fail-fast
    skipped=$((skipped + skip))
else
    echo "test: cargo-nextest is not installed; cargo test does it, one binary after the other"
    count cargo test --locked --workspace --exclude owm-e2e --no-fail-fast
    skipped=$skip
    # Whole networks one after the other, and what the crash harness counted is shown.
    networks=()
    for file in tests/e2e/tests/*; do networks+=(--test "$(basename "$file" .rs)"); done
    count cargo test --locked --workspace "${networks[@]}" --no-fail-fast -- \
        --test-threads=1 --show-output
    skipped=$((skipped + skip))
    for name in "${extra[@]}"; do
        count cargo test --locked --workspace --lib --bins --tests --no-fail-fast -- --ignored "$name"
        skipped=$((skipped - ran))
    done
fi
[ "$broken" = 0 ] || [ "$failed" -gt 0 ] || failed=1
[ "$skipped" -ge 0 ] || skipped=0
if [ -s "$failures" ]; then
    echo "test: what failed, and how (the whole story is above); FLAKY: it passed when it was tried again"
    head -n 200 "$failures"
fi
echo "$passed passed, $failed failed, $skipped skipped" | tee "$CARGO_TARGET_DIR/owm-test-counts"
[ "$failed" = 0 ]
