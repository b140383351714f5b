#!/usr/bin/env bash
# Writes .sqlx anew: what the database says of each `query!`, so that builds need no database.
# `--check` compares instead and fails if .sqlx is stale. Needs no sqlx-cli: sqlx's own macros write
# the files when they run against a database with SQLX_OFFLINE_DIR set.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/env.sh

if [ "${1:-}" != --inside ]; then
    cargo build --quiet -p owm-devnet
    exec "$CARGO_TARGET_DIR/debug/owm-devnet" pg-run -- deploy/sqlx-prepare.sh --inside "$@"
fi
shift

# The same Postgres as the devnet's.
psql=$(ls -d ${OWM_PG_BIN:+"$OWM_PG_BIN/psql"} /usr/lib/postgresql/*/bin/psql 2>/dev/null | sort -V | tail -n 1)
psql=${psql:-psql}
for file in migrations/sql/*.sql; do
    "$psql" -X -q -v ON_ERROR_STOP=1 -1 -d "$DATABASE_URL" -f "$file" >/dev/null
done

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

# The crates with checked queries; the macros run only where the compiler does.
mapfile -t sources < <(grep -rlE 'query(_as|_scalar)?(_unchecked)?!' --include='*.rs' coordinator migrations node tests || true)
packages=()
while read -r folder; do
    packages+=(-p "$(sed -n 's/^name = "\(.*\)"/\1/p' "$folder/Cargo.toml" | head -n 1)")
done < <(printf '%s\n' "${sources[@]}" | sed -E 's,/(src|tests|examples|benches)/.*,,' | sort -u)
touch "${sources[@]}"
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh" cargo check --quiet "${packages[@]}" --all-targets
# What was compiled against this database must not pass for an offline build.
touch "${sources[@]}"

if [ "${1:-}" = --check ]; then
    if diff -rq "$fresh" .sqlx; then
        echo "sqlx: .sqlx is up to date ($(find "$fresh" -name '*.json' | wc -l) queries)"
    else
        echo "sqlx: .sqlx is stale: run \`make sqlx-prepare\` and commit it" >&2
        exit 1
    fi
else
    rm -rf .sqlx
    mkdir .sqlx
    cp "$fresh"/*.json .sqlx/
    echo "sqlx: wrote .sqlx ($(find .sqlx -name '*.json' | wc -l) queries)"
fi
