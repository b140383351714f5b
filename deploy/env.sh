# Sourced by the other scripts: the folders that all `make` verbs share, and offline builds.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/owm/target}
export OWM_CACHE=${OWM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/owm}
export SQLX_OFFLINE=${SQLX_OFFLINE:-true}
