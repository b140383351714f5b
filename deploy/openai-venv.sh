#!/usr/bin/env bash
# Prints the path of a Python that has the unmodified `openai` client from PyPI, installed once into a
# virtual environment in the cache folder given. Exit 3: it can't be had.
set -euo pipefail
cache=$1
venv="$cache/openai-venv"
python="$venv/bin/python"
if ! "$python" -c 'import openai' 2>/dev/null; then
    log="$cache/openai-venv.log"
    mkdir -p "$cache"
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" && "$python" -m pip install --quiet 'openai>=2,<4'; } >"$log" 2>&1; then
        echo "openai: can't be installed, see $log" >&2
        exit 3
    fi
fi
echo "$python"
