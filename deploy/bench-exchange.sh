#!/usr/bin/env bash
# One file fetched over loopback: our exchange beside nginx + curl, libtorrent, rqbit and iroh-blobs, in turns, data in
# memory; prints a table of medians. Builds and fetches what is compared with by package name into the cache, the first
# time; what can't be had is left out with a line. Wants an idle machine.
#
#   deploy/bench-exchange.sh [--rounds 3] [--size 2048 (MiB)] [--sources 1,8] [--pinned] [--minutes 60] [--only-build]
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh
rounds=3 size=2048 sources=1,8 pinned='' minutes=60 only_build=''
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds=$2; shift ;;
        --size) size=$2; shift ;;
        --sources) sources=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --pinned) pinned=--pinned ;;
        --only-build) only_build=1 ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
work="$OWM_CACHE/bench-exchange"
mkdir -p "$work"
missing() { echo "bench: $1 can't be had here and is left out${2:+: see $2}"; }

kinds=()
if command -v nginx >/dev/null && command -v curl >/dev/null; then
    kinds+=(nginx=nginx)
else
    missing "nginx with curl (Debian: apt-get install --no-install-recommends nginx-light curl)"
fi
python="$work/venv/bin/python"
if ! "$python" -c 'import libtorrent' 2>/dev/null; then
    { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet libtorrent; } >"$work/pip.log" 2>&1 || true
fi
if "$python" -c 'import libtorrent' 2>/dev/null; then
    kinds+=("libtorrent=libtorrent:$python")
    if [ -x "$work/rqbit/bin/rqbit" ] || CARGO_TARGET_DIR="$work/rqbit-build" cargo install --quiet --locked \
        --version 9.1.0 --root "$work/rqbit" --no-default-features --features rust-tls rqbit >"$work/rqbit.log" 2>&1; then
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
[ -z "$only_build" ] || exit 0

data=$(mktemp -d /dev/shm/owm-bench-XXXXXX)
trap 'rm -rf "$data"' EXIT
# The file, a fetched copy, and what a client keeps beside it while it fetches.
free=$(df --output=avail -BM /dev/shm | tail -n 1 | tr -dc 0-9)
if [ "$free" -lt $((3 * size)) ]; then
    echo "bench: /dev/shm has $free MiB free and $((3 * size)) are needed; give a smaller --size" >&2
    exit 1
fi
head -c "${size}M" /dev/urandom >"$data/model.bin"
"$python" tests/bench-exchange/compare.py --file "$data/model.bin" --work "$data/work" --rounds "$rounds" \
    --sources "$sources" --minutes "$minutes" $pinned "${kinds[@]}"
