"""What fetching one file over loopback costs with other software, beside ours in the same rounds. Called by
deploy/bench-exchange.sh, which installs what it can:

    compare.py --file FILE --work FOLDER --rounds 3 --sources 1,8 --minutes 60 [--pinned] NAME=KIND[:PROGRAM] ...

KIND: nginx (nginx and curl; nothing encrypted or verified), libtorrent (v2, plain), rqbit (v1, plain), iroh
(iroh-blobs, encrypted), owm (`owm-bench`'s own processes; `raw`, `tcp`, `quic`). CPU seconds count all processes
of both sides from the moment when the sources are ready (their hashing is not counted) to the verified file;
MB/s from when the fetching side is connected or, where that can't be told, from its start. FILE and FOLDER
belong into memory (/dev/shm). The fetched file is compared with FILE outside what is measured.

Each round measures everything once, in another order. A measurement that takes longer than `limit` says is ended and
named; after so many minutes no other is begun, and the table is of what was measured until then."""

import argparse
import filecmp
import json
import os
import pathlib
import select
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
# Slower than this is not waited for; a busy machine is allowed for.
MB_PER_SECOND_MIN = 25


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


def limit(file: str) -> float:
    """Seconds that one step of a measurement may take."""
    return 30 + os.path.getsize(file) / 1e6 / MB_PER_SECOND_MIN


class Process:
    """One side: starts, says a line when it is ready, is measured from there on."""

    def __init__(self, command: list[str], core: int | None, patience: float) -> None:
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.patience = patience
        self.heard = b""
        self.said = self.line()
        self.before = used(self.process.pid)[0]

    def line(self) -> str:
        while b"\n" not in self.heard:
            if not select.select([self.process.stdout], [], [], self.patience)[0]:
                self.kill()
                raise RuntimeError(f"{self.process.args} has said nothing for {self.patience:.0f} s")
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        return line.decode().strip()

    def kill(self) -> None:
        """With all that it has started."""
        if self.process.poll() is None:
            for one in reversed(children(self.process.pid)):
                try:
                    os.kill(one, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()

    def end(self) -> tuple[float, float]:
        cpu, rss = used(self.process.pid)
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
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
            running.append(Process(kind.source(file, work / f"source{n}"), 0 if pinned else None, limit(file)))
        out = work / "out"
        out.mkdir()
        fetcher = Process(kind.fetcher(out, [r.said for r in running]), 1 if pinned else None, limit(file))
        running.append(fetcher)
        seconds, *largest = map(float, fetcher.line().split())
        ends = [one.end() for one in running]
    finally:
        for one in running:
            one.kill()
    if not (out / "file").exists():
        with open(out / "file", "wb") as whole:
            for n in range(sources):
                with open(out / f"part{n}", "rb") as part:
                    shutil.copyfileobj(part, whole)
                (out / f"part{n}").unlink()
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
    # It makes its file first.
    patience = 2 * limit(file)
    said = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True, timeout=patience).stdout
    line = next(line for line in said.splitlines() if line.startswith("JSON {") and '"exchange"' in line)
    return json.loads(line.removeprefix("JSON "))["is"]


def spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", default="1,8")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pinned", action="store_true", help="sources on core 0, the fetching side on core 1")
    parser.add_argument("kinds", nargs="+")
    args = parser.parse_args()
    kinds = {}
    for given in args.kinds:
        name, _, how = given.partition("=")
        kind, _, program = how.partition(":")
        kinds[name] = Kind(kind, program)
    done = measure_all(args, kinds)
    print(f"## One file of {os.path.getsize(args.file) >> 20} MiB, loopback, medians [least-most]")
    print("\n| software | sources | pinned | rounds | MB/s | CPU s per GiB, both sides | RSS of the fetching side, MB |")
    print("|---|---|---|---|---|---|---|")
    for (sources, name), runs in sorted(done.items(), key=lambda item: (item[0][0], list(kinds).index(item[0][1]))):
        cells = [
            spread([one[key] for one in runs], digits)
            for key, digits in (("mb_per_second", 0), ("cpu_seconds_per_gib", 2), ("fetcher_rss_mb", 0))
        ]
        print(f"| {name} | {sources} | {'yes' if args.pinned else 'no'} | {len(runs)} | {' | '.join(cells)} |")


def measure_all(args: argparse.Namespace, kinds: dict[str, Kind]) -> dict[tuple[int, str], list[dict]]:
    ends = time.monotonic() + 60 * args.minutes
    done: dict[tuple[int, str], list[dict]] = {}
    for turn in range(args.rounds):
        names = list(kinds)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for sources in map(int, args.sources.split(",")):
            for name in names:
                if time.monotonic() > ends:
                    print(f"bench: {args.minutes:.0f} minutes are over in round {turn + 1}", file=sys.stderr)
                    return done
                kind, begun = kinds[name], time.monotonic()
                try:
                    if kind.kind == "owm":
                        one = measure_owm(kind, args.file, sources, args.pinned)
                    else:
                        one = measure_foreign(kind, args.file, args.work / kind.kind, sources, args.pinned)
                except (RuntimeError, OSError, ValueError, subprocess.SubprocessError, StopIteration) as error:
                    print(f"bench: {name} with {sources} sources failed: {error}", file=sys.stderr)
                    continue
                done.setdefault((sources, name), []).append(one)
                took = time.monotonic() - begun
                said = f"bench: round {turn + 1}, {name}, {sources} sources: {one['mb_per_second']:.0f} MB/s, "
                print(said + f"{one['cpu_seconds_per_gib']:.2f} CPU s per GiB ({took:.0f} s)", file=sys.stderr, flush=True)
    return done


if __name__ == "__main__":
    main()
