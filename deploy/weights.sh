# Sourced: `weights_find` fetches the real weights once into the user's cache and sets
# OWM_SMOLLM2_GGUF; returns 1 (and says so) where they can't be had: the tiny model stands in then.
# OWM_WEIGHTS=tiny asks for the tiny model outright.

weights_find() {
    if [ "${OWM_WEIGHTS:-}" = tiny ]; then
        echo "weights: OWM_WEIGHTS=tiny: the tiny stand-in model is used; its answers mean nothing"
        return 1
    fi
    if [ -n "${OWM_SMOLLM2_GGUF:-}" ]; then
        [ -r "$OWM_SMOLLM2_GGUF" ] && return 0
        echo "weights: OWM_SMOLLM2_GGUF=$OWM_SMOLLM2_GGUF is not there" >&2
        return 1
    fi
    local status=0 found
    found=$(deploy/fetch-weights.sh "$OWM_CACHE") || status=$?
    found=$(tail -n 1 <<<"$found")
    if [ "$status" = 0 ] && [ -r "$found" ]; then
        export OWM_SMOLLM2_GGUF="$found"
        return 0
    fi
    echo "weights: the real weights (SmolLM2-135M-Instruct) can't be had here (see above):"
    echo "weights: a TINY STAND-IN MODEL is served instead; its answers mean nothing"
    return 1
}
