"""llama.cpp (prebuilt, through xllamacpp) behind the line protocol of compare.py: `llama_xllamacpp.py
MODEL.gguf THREADS`. The times are llama.cpp's own."""

import json
import sys

import xllamacpp

PROMPT = [504, 3575, 282, 4649, 314]


def main(path: str, threads: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = int(threads)
    params.cpuparams_batch.n_threads = int(threads)
    params.verbosity = -1
    server = xllamacpp.Server(params)
    for line in sys.stdin:
        prompt, answer = map(int, line.split())
        said = server.handle_completions({
            "prompt": [PROMPT[i % len(PROMPT)] for i in range(prompt)],
            "max_tokens": answer, "n_predict": answer, "temperature": 0, "cache_prompt": False,
            "ignore_eos": True, "return_tokens": True, "logprobs": 1, "timings_per_token": False,
        })
        timings = said["timings"]
        # llama.cpp counts one sample fewer or as many as tokens by version: its speed is taken.
        generate_s = (answer - 1) / timings["predicted_per_second"]
        tokens = [entry["id"] for entry in said["choices"][0]["logprobs"]["content"]]
        print(json.dumps({"prompt_s": timings["prompt_ms"] / 1000, "generate_s": generate_s, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
