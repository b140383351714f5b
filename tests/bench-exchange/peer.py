"""Other software as a source or as the one that fetches, for compare.py:

    peer.py KIND serve FILE WORK           prints its address when it serves; ends with its input
    peer.py KIND fetch OUT ADDRESS ...     prints "ready", fetches to OUT/file, prints the seconds (and its
                                           children's RSS in MB); ends with its input

KIND: nginx (`curl` fetches), libtorrent, rqbit. Nothing of it looks for anybody outside: no DHT, no trackers, no
local discovery, no UPnP; loopback only."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
import urllib.request
import warnings

from compare import free_port


def until_the_end() -> None:
    sys.stdin.read()


def torrent_of(file: pathlib.Path, work: pathlib.Path, version: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A folder with the file, and its torrent, which all sources share."""
    import libtorrent as lt

    # Named "file" in the torrent, as it is to be called where it is fetched.
    folder = work / "data"
    folder.mkdir()
    os.link(file, folder / "file")
    torrent = file.parent / f"{version}.torrent"
    if not torrent.exists():
        # Newer ways of making one differ between the versions of libtorrent that PyPI has.
        warnings.simplefilter("ignore", DeprecationWarning)
        storage = lt.file_storage()
        storage.add_file("file", file.stat().st_size)
        made = lt.create_torrent(storage, 1 << 20, getattr(lt.create_torrent, version))
        lt.set_piece_hashes(made, str(folder))
        torrent.write_bytes(lt.bencode(made.generate()))
    return folder, torrent


class Nginx:
    """Sources share nothing; curl takes an even range from each, all at once."""

    def serve(self, file: pathlib.Path, work: pathlib.Path) -> None:
        port = free_port()
        config = work / "nginx.conf"
        # The folder is ours alone, and so is the worker.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user} daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log;\n"
            "events {}\n"
            f"http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {file.parent}; }} }}\n"
        )
        server = subprocess.Popen(["nginx", "-p", str(work), "-c", str(config), "-e", str(work / "error.log")])
        url = f"http://127.0.0.1:{port}/{file.name}"
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=1)
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("nginx has ended") from None
                time.sleep(0.05)
        print(f"{url}|{file.stat().st_size}", flush=True)
        until_the_end()
        server.terminate()
        server.wait()

    def fetch(self, out: pathlib.Path, addresses: list[str]) -> float:
        print("ready", flush=True)
        begun = time.monotonic()
        parts = []
        for n, address in enumerate(addresses):
            url, size = address.split("|")
            first, last = (int(size) * i // len(addresses) for i in (n, n + 1))
            part = out / ("file" if len(addresses) == 1 else f"part{n}")
            command = ["curl", "-sS", "-r", f"{first}-{last - 1}", "-o", str(part), url]
            parts.append((part, subprocess.Popen(command)))
        for _, process in parts:
            if process.wait() != 0:
                raise SystemExit("curl failed")
        # Parts are put together by who compares them: a real client writes to offsets at once.
        return time.monotonic() - begun


class Libtorrent:
    """Version 2 torrents (SHA-256 Merkle trees), TCP only, no encryption."""

    SETTINGS = {
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "allow_multiple_connections_per_ip": True,
        "out_enc_policy": 2,
        "in_enc_policy": 2,
        "unchoke_slots_limit": -1,
        "connections_limit": 200,
        "alert_mask": 0,
        "mixed_mode_algorithm": 0,
    }

    def session(self):
        import libtorrent as lt

        return lt.session({**self.SETTINGS, "listen_interfaces": "127.0.0.1:0"})

    def serve(self, file: pathlib.Path, work: pathlib.Path) -> None:
        import libtorrent as lt

        folder, torrent = torrent_of(file, work, "v2_only")
        session = self.session()
        params = lt.add_torrent_params()
        params.ti, params.save_path = lt.torrent_info(str(torrent)), str(folder)
        # Checked here, not while it serves (seed_mode would hash during the transfer).
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        handle = session.add_torrent(params)
        while not handle.status().is_seeding:
            time.sleep(0.05)
        print(f"{session.listen_port()}|{torrent}", flush=True)
        until_the_end()

    def fetch(self, out: pathlib.Path, addresses: list[str]) -> float:
        import libtorrent as lt

        session = self.session()
        params = lt.add_torrent_params()
        params.ti, params.save_path = lt.torrent_info(addresses[0].split("|")[1]), str(out)
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        print("ready", flush=True)
        begun = time.monotonic()
        handle = session.add_torrent(params)
        for address in addresses:
            handle.connect_peer(("127.0.0.1", int(address.split("|")[0])))
        while not handle.status().is_seeding:
            time.sleep(0.02)
        took = time.monotonic() - begun
        session.pause()
        return took


class Rqbit:
    """Version 1 torrents (SHA-1), which mktorrent's format of one file is."""

    def program(self) -> str:
        return os.environ["OWM_RQBIT"]

    def common(self) -> list[str]:
        alone = ["--disable-dht", "--disable-upnp-port-forward", "--disable-lsd", "--disable-trackers"]
        return [self.program(), "-v", "error", *alone]

    def serve(self, file: pathlib.Path, work: pathlib.Path) -> None:
        folder, torrent = torrent_of(file, work, "v1_only")
        port, api = free_port(), free_port()
        command = [*self.common(), "--listen-ip", "127.0.0.1", "--listen-port", str(port)]
        command += ["--http-api-listen-addr", f"127.0.0.1:{api}", "download", "--overwrite"]
        command += ["-o", str(folder), str(torrent)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            if server.poll() is not None:
                raise SystemExit("rqbit has ended")
            try:
                stats = urllib.request.urlopen(f"http://127.0.0.1:{api}/torrents/0/stats/v1", timeout=1)
                if json.load(stats).get("finished"):
                    break
            except OSError:
                pass
            time.sleep(0.05)
        print(f"{port}|{torrent}", flush=True)
        until_the_end()
        server.terminate()
        server.wait()

    def fetch(self, out: pathlib.Path, addresses: list[str]) -> float:
        peers = ",".join(f"127.0.0.1:{address.split('|')[0]}" for address in addresses)
        command = [*self.common(), "--disable-tcp-listen", "download", "--exit-on-finish"]
        command += ["--initial-peers", peers, "-o", str(out), addresses[0].split("|")[1]]
        print("ready", flush=True)
        begun = time.monotonic()
        if subprocess.call(command, stdout=subprocess.DEVNULL) != 0:
            raise SystemExit("rqbit failed")
        return time.monotonic() - begun


KINDS = {"nginx": Nginx, "libtorrent": Libtorrent, "rqbit": Rqbit}


def main() -> None:
    kind, task, *rest = sys.argv[1:]
    peer = KINDS[kind]()
    if task == "serve":
        peer.serve(pathlib.Path(rest[0]), pathlib.Path(rest[1]))
        return
    took = peer.fetch(pathlib.Path(rest[0]), rest[1:])
    # Of programs that have ended nobody else can tell how large they were.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(took, largest, flush=True)
    until_the_end()


if __name__ == "__main__":
    main()
