#!/usr/bin/env bash
# One file fetched over loopback: our exchange beside nginx + curl, libtorrent, rqbit and iroh-blobs, in turns, data in
# memory. Fetches what is compared with by package name into the cache; what can't be had is left out with a line.
# Wants an idle machine. OWM_BENCH_MIB (2048), OWM_BENCH_ROUNDS (3), OWM_BENCH_SOURCES (1,8), OWM_BENCH_PINNED=1.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
work="$OWM_CACHE/bench-exchange"
mkdir -p "$work"
missing() { echo "bench: $1 can't be had here and is left out${2:+: see $2}"; }

kinds=()
if command -v nginx >/dev/null && command -v curl >/dev/null; then
    kinds+=(nginx=nginx)
else
    missing "nginx with curl (Debian: apt-get install --no-install-recommends nginx-light curl)"
fi
if [ ! -x "$work/venv/bin/python" ] || ! "$work/venv/bin/python" -c 'import libtorrent' 2>/dev/null; then
    python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet libtorrent >"$work/pip.log" 2>&1 || true
fi
python="$work/venv/bin/python"
if "$python" -c 'import libtorrent' 2>/dev/null; then
    kinds+=("libtorrent=libtorrent:$python")
    if [ -x "$work/rqbit/bin/rqbit" ] || cargo install --quiet --root "$work/rqbit" --no-default-features \
        --features rust-tls rqbit >"$work/rqbit.log" 2>&1; then
        export OWM_RQBIT="$work/rqbit/bin/rqbit"
        kinds+=("rqbit=rqbit:$python")
    else
        missing rqbit "$work/rqbit.log"
    fi
else
    missing "the Python package libtorrent (rqbit's torrent is made with it too)" "$work/pip.log"
    python=python3
fi
if CARGO_TARGET_DIR="$work/iroh" cargo build --quiet --locked --release \
    --manifest-path tests/bench-exchange/Cargo.toml >"$work/iroh.log" 2>&1; then
    kinds+=("iroh-blobs=iroh:$work/iroh/release/owm-bench-exchange")
else
    missing iroh-blobs "$work/iroh.log"
fi
cargo build --quiet --locked --profile bench-net -p owm-bench
bench="$CARGO_TARGET_DIR/bench-net/owm-bench --exchange-variants"
kinds+=("raw stream + SHA-256=owm:$bench raw" "owm (TCP)=owm:$bench tcp" "owm (QUIC)=owm:$bench quic")

data=$(mktemp -d /dev/shm/owm-bench-XXXXXX)
trap 'rm -rf "$data"' EXIT
head -c "${OWM_BENCH_MIB:-2048}M" /dev/urandom >"$data/model.bin"
"$python" tests/bench-exchange/compare.py --file "$data/model.bin" --work "$data/work" \
    --rounds "${OWM_BENCH_ROUNDS:-3}" --sources "${OWM_BENCH_SOURCES:-1,8}" ${OWM_BENCH_PINNED:+--pinned} "${kinds[@]}"
