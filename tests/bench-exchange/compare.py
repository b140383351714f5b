"""What fetching one file over loopback costs with other software, beside ours in the same rounds. Called by
deploy/bench-exchange.sh, which installs what it can:

    compare.py --file FILE --work FOLDER --rounds 3 --sources 1,8 [--pinned] NAME=KIND[:PROGRAM] ...

KIND: nginx (nginx and curl; nothing encrypted or verified), libtorrent (v2, plain), rqbit (v1, plain), iroh
(iroh-blobs, encrypted), owm (`owm-bench`'s own processes; `raw`, `tcp`, `quic`). CPU seconds count all processes
of both sides from the moment when the sources are ready (their hashing is not counted) to the verified file;
MB/s from when the fetching side is connected or, where that can't be told, from its start. FILE and FOLDER
belong into memory (/dev/shm). The fetched file is compared with FILE outside what is measured."""

import argparse
import filecmp
import json
import os
import pathlib
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += children(int(child))
    return found


def used(pid: int) -> tuple[float, float]:
    """CPU seconds, waited-for children included, and the peak RSS in MB of a process with its children."""
    cpu = rss = 0.0
    for one in children(pid):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(") ", 1)[1].split()
        cpu += sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICK
        for line in pathlib.Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                rss += int(line.split()[1]) * 1024 / 1e6
    return cpu, rss


class Process:
    """One side: starts, says a line when it is ready, is measured from there on."""

    def __init__(self, command: list[str], core: int | None, ready: bool = True) -> None:
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = self.line() if ready else ""
        self.before = used(self.process.pid)[0]

    def line(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return line

    def end(self) -> tuple[float, float]:
        cpu, rss = used(self.process.pid)
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return cpu - self.before, rss


class Kind:
    """How one software is started; `source` and `fetcher` give commands that follow the protocol above."""

    def __init__(self, kind: str, program: str) -> None:
        self.kind, self.program = kind, program

    def source(self, file: str, work: pathlib.Path) -> list[str]:
        if self.kind == "iroh":
            return [self.program, "serve", file, str(work)]
        return [self.program or sys.executable, str(HERE / "peer.py"), self.kind, "serve", file, str(work)]

    def fetcher(self, out: pathlib.Path, addresses: list[str]) -> list[str]:
        if self.kind == "iroh":
            return [self.program, "fetch", str(out), *addresses]
        return [self.program or sys.executable, str(HERE / "peer.py"), self.kind, "fetch", str(out), *addresses]


def measure_foreign(kind: Kind, file: str, work: pathlib.Path, sources: int, pinned: bool) -> dict:
    shutil.rmtree(work, ignore_errors=True)
    running = []
    try:
        for n in range(sources):
            (work / f"source{n}").mkdir(parents=True)
            running.append(Process(kind.source(file, work / f"source{n}"), 0 if pinned else None))
        out = work / "out"
        out.mkdir()
        fetcher = Process(kind.fetcher(out, [r.said for r in running]), 1 if pinned else None)
        running.append(fetcher)
        seconds, *largest = map(float, fetcher.line().split())
        ends = [one.end() for one in running]
    finally:
        for one in running:
            one.process.kill()
    if not filecmp.cmp(file, out / "file", shallow=False):
        raise RuntimeError(f"{kind.kind} fetched another file")
    size = os.path.getsize(file)
    gib = size / 2**30
    shutil.rmtree(work, ignore_errors=True)
    return {
        "mb_per_second": size / 1e6 / seconds,
        "cpu_seconds_per_gib": sum(cpu for cpu, _ in ends) / gib,
        "fetcher_rss_mb": max([ends[-1][1], *largest]) if kind.kind != "rqbit" else largest[0],
    }


def measure_owm(kind: Kind, file: str, sources: int, pinned: bool) -> dict:
    """One round of `owm-bench exchange`, which starts processes in the same way."""
    mib = os.path.getsize(file) >> 20
    command = f"{kind.program} --exchange-mib {mib} --exchange-rounds 1 --exchange-sources {sources}"
    command += f" --exchange-pinned {'true' if pinned else 'false'} exchange"
    said = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("{") and '"exchange"' in line)
    return json.loads(line)["is"]


def spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", default="1,8")
    parser.add_argument("--pinned", action="store_true", help="sources on core 0, the fetching side on core 1")
    parser.add_argument("kinds", nargs="+")
    args = parser.parse_args()
    kinds = {}
    for given in args.kinds:
        name, _, how = given.partition("=")
        kind, _, program = how.partition(":")
        kinds[name] = Kind(kind, program)
    print(f"## One file of {os.path.getsize(args.file) >> 20} MiB, loopback, medians [least-most] of {args.rounds} rounds")
    print("\n| software | sources | pinned | MB/s | CPU s per GiB, both sides | RSS of the fetching side, MB |")
    print("|---|---|---|---|---|---|", flush=True)
    for sources in map(int, args.sources.split(",")):
        runs: dict[str, list[dict]] = {name: [] for name in kinds}
        for turn in range(args.rounds):
            names = list(kinds)
            names = names[turn % len(names) :] + names[: turn % len(names)]
            for name in names:
                kind = kinds[name]
                try:
                    if kind.kind == "owm":
                        runs[name].append(measure_owm(kind, args.file, sources, args.pinned))
                    else:
                        runs[name].append(measure_foreign(kind, args.file, args.work / name, sources, args.pinned))
                except (RuntimeError, OSError, subprocess.SubprocessError, StopIteration) as error:
                    print(f"bench: {name} with {sources} sources failed: {error}", file=sys.stderr)
        for name, done in runs.items():
            if not done:
                continue
            cells = [
                spread([one[key] for one in done], digits)
                for key, digits in (("mb_per_second", 0), ("cpu_seconds_per_gib", 2), ("fetcher_rss_mb", 0))
            ]
            print(f"| {name} | {sources} | {'yes' if args.pinned else 'no'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
