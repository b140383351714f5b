"""Our engine beside candle and llama.cpp in one run: the same weights, prompts and answers, one after
the other in turns. Called by deploy/bench-engine.sh, which fetches and builds the engines:

    compare.py --rounds 5 --prompt 512 --answer 128 NAME=COMMAND ...

Each command answers a line `PROMPT_TOKENS ANSWER_TOKENS` with a line of JSON: prompt_s, generate_s,
tokens. Prints a table for docs/benchmarks.md; fails if an engine's golden tokens are wrong. A name
that ends in `*` is shown for information: its numbers are another precision's."""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys

GOLDEN = [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33, 29, 34, 34, 216, 33, 34, 42, 33]


class Engine:
    def __init__(self, name: str, command: str) -> None:
        self.name = name
        # Presets that halve some engines' speed, and the peers' own thread counts, are taken out.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "OMP_"))}
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.runs = []

    def ask(self, prompt: int, answer: int) -> dict:
        cpu = self.cpu_seconds()
        self.process.stdin.write(f"{prompt} {answer}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self.name} has ended with code {self.process.wait()}; see its message above")
        said = json.loads(line)
        said["cpu_s"] = self.cpu_seconds() - cpu
        return said

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[int, int]:
        found = {}
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(("VmRSS", "VmHWM")):
                    key, value = line.split(":")
                    found[key] = int(value.split()[0]) // 1000
        return found["VmRSS"], found["VmHWM"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("engines", nargs="+")
    args = parser.parse_args()
    engines = [Engine(*given.split("=", 1)) for given in args.engines]
    wrong = []
    for engine in engines:
        golden = engine.ask(5, 24)["tokens"]
        if golden != GOLDEN:
            engine.name += " (other tokens)"
            if "*" not in engine.name:
                wrong.append(f"{engine.name}: {golden}")
    for round_number in range(args.rounds + 1):
        for engine in engines:
            whole = engine.ask(args.prompt, args.answer)
            if round_number > 0:  # The first one warms caches.
                engine.runs.append(whole)
    print_table(args, engines)
    for line in wrong:
        print(f"bench: not the golden tokens: {line}", file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


def print_table(args: argparse.Namespace, engines: list[Engine]) -> None:
    rows = []
    for engine in engines:
        steps = [len(run["tokens"]) - 1 for run in engine.runs]
        rss, peak = engine.memory()
        rows.append({
            "name": engine.name,
            "prompt": statistics.median(args.prompt / run["prompt_s"] for run in engine.runs),
            "generate": statistics.median(n / run["generate_s"] for n, run in zip(steps, engine.runs)),
            "best": max(n / run["generate_s"] for n, run in zip(steps, engine.runs)),
            "cpu": statistics.median(run["cpu_s"] for run in engine.runs),
            "rss": rss,
            "peak": peak,
        })
    ours = rows[0]
    print(f"\n{cpu_name()}, {args.threads} threads, load {os.getloadavg()[0]:.1f}, {datetime.date.today()}; "
          f"prompt {args.prompt}, answer {args.answer} tokens, medians of {args.rounds} interleaved rounds\n")
    print("| engine | prompt tok/s | generate tok/s (best) | CPU s per run | RSS MB (peak) | first line's prompt / generate speed to it |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['name']} | {row['prompt']:.0f} | {row['generate']:.1f} ({row['best']:.1f}) | {row['cpu']:.2f} "
              f"| {row['rss']} ({row['peak']}) | {ours['prompt'] / row['prompt']:.2f} / {ours['generate'] / row['generate']:.2f} |")


def cpu_name() -> str:
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
