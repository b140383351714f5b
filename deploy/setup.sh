#!/usr/bin/env bash
# Installs what a fresh Debian 12 machine with Rust lacks, and nothing else; says what. `make up` and
# `make test` (with the word `test`: then also what makes network namespaces, and Chromium for the page's
# tests) call it. Silent when all is there.
set -euo pipefail

# The Postgres that the devnet's own clusters are made of: any version from 15 on.
have_postgres() {
    local dir
    for dir in ${OWM_PG_BIN:+"$OWM_PG_BIN"} /usr/lib/postgresql/*/bin; do
        [ -x "$dir/initdb" ] || continue
        case "$("$dir/postgres" -V)" in
            *") "[0-9].* | *") 1"[0-4].*) ;;
            *) return 0 ;;
        esac
    done
    # Other systems: on the PATH (Debian keeps the server's programs off it).
    command -v initdb >/dev/null && command -v postgres >/dev/null && command -v psql >/dev/null
}

missing=()
command -v cc >/dev/null || missing+=(build-essential)
have_postgres || missing+=(postgresql)
command -v openssl >/dev/null || missing+=(openssl)
command -v setpriv >/dev/null || missing+=(util-linux)
# The weights and the `openai` client come as Python packages.
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)

# Peers behind NAT are tested in network namespaces, if they can be had.
if [ "${1:-}" = test ]; then
    PATH="$PATH:/usr/sbin:/sbin" command -v ip >/dev/null || missing+=(iproute2)
    PATH="$PATH:/usr/sbin:/sbin" command -v nft >/dev/null || missing+=(nftables)
fi

# Chromium tests the public page: some 125 MB to fetch, 450 MB on disk, a minute or two. The tests do
# without it (they say SKIP), so nothing fails if it can't be had.
want_browser=
if [ "${1:-}" = test ] && [ -z "${OWM_CHROMIUM:-}" ]; then
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || want_browser=yes
fi

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: this machine lacks ${missing[*]} (Debian's names) and has no apt-get:" \
            "install them by hand and start again" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: install as root, then start again: apt-get install ${missing[*]}" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    echo "setup: installing Debian packages: ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    case " ${missing[*]} " in
        *" postgresql "*)
            # Debian would start a cluster of its own on port 5432, which nobody here uses.
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
            "${as_root[@]}" mkdir -p /etc/postgresql-common/createcluster.d
            echo "create_main_cluster = false" |
                "${as_root[@]}" tee /etc/postgresql-common/createcluster.d/owm.conf >/dev/null
            ;;
    esac
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    have_postgres || { echo "setup: Postgres 15 or newer is needed; this system's is older" >&2; exit 1; }
fi

if [ -n "$want_browser" ] && command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    echo "setup: installing Debian package: chromium (for the tests of the public page)"
    { [ ${#missing[@]} -gt 0 ] || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq; } &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends chromium chromium-sandbox >/dev/null ||
        echo "setup: chromium can't be installed: the tests of the public page will be left out" >&2
fi

command -v cargo >/dev/null || {
    echo "setup: cargo is missing: install Rust (the version is in Cargo.toml: rust-version) with rustup" >&2
    exit 1
}
