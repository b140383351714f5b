#!/usr/bin/env python3
"""Makes aggregate.json: a round's updates to one delta, by an implementation of its own, in plain Python, so that
coordinator/aggregate is checked against something that shares no line with it. It follows docs/fl-protocol.md
("Updates to one delta"); updates are packed and read by update.py beside it.

    python3 tests/vectors/aggregate.py > tests/vectors/aggregate.json

The verdicts are compared by their kind, weights and scales to the bit, the delta and the residue byte for byte.
"""
import hashlib
import json
import math
import statistics
import struct
import sys

sys.dont_write_bytecode = True
import update as codec  # noqa: E402

TENTH = (2, 1, 100_000)
ELEMENTS = 70_000


def key(i):
    return hashlib.sha256(b"node %d" % i).digest()


def step(i):
    """A truth, and each node's noise on it; 3 points away from it, 6 is too long, 8 has what 1 has."""
    source = 1 if i == 8 else i
    truth, noise = codec.pattern(ELEMENTS, 1_000), codec.pattern(ELEMENTS, 7 * source + 3)
    sign = -1.0 if i == 3 else 1.0
    factor = 64.0 if i == 6 else 1.0
    return [codec.f32(sign * factor * (a + b) / 1024) for a, b in zip(truth, noise)]


def updates(nodes):
    out = []
    for i in range(nodes):
        codec.NODE = key(i)
        origin = {"samples": 100 + 20 * i, "steps": 30, "clip": 1e9}
        data, _ = codec.encode(codec.full_subject(origin=origin), TENTH, step(i))
        out.append(data)
    return out


def shards(blocks):
    count = min(64, blocks)
    return [range(blocks * s // count, blocks * (s + 1) // count) for s in range(count)]


def dot(lower, higher, elements):
    """Of the values of two nodes; `lower` has the lower key."""
    total = 0.0
    blocks = -(-elements // codec.BLOCK)
    chunks = {}
    for place in sorted(higher):
        chunks.setdefault(place // codec.CHUNK, []).append(place)
    for shard in shards(blocks):
        part = 0.0
        for chunk in range(shard.start * 16, min(shard.stop * 16, -(-elements // codec.CHUNK))):
            places = chunks.get(chunk, [])
            lanes = [0.0] * 4
            for at, place in enumerate(places):
                lanes[at % 4] += lower.get(place, 0.0) * higher[place]
            part += 0.0 + lanes[0] + lanes[1] + lanes[2] + lanes[3]
        total += part
    return total


def mad(values, centre):
    return statistics.median([abs(x - centre) for x in values])


def gates(nodes):
    """Why each does not count (None: it does), and each one's scale."""
    n = len(nodes)
    why = [None] * n
    left = lambda: [i for i in range(n) if why[i] is None]
    logs = [math.log(node["norm"]) for node in nodes]
    centre = statistics.median(logs)
    spread = max(1.4826 * mad(logs, centre), 0.1)
    for i in range(n):
        if (logs[i] - centre) / spread > 6:
            why[i] = "norm"
    overlap = {}
    pairs = [(i, j) for i in left() for j in left() if i < j]
    for i, j in pairs:
        both = nodes[i]["values"].keys() & nodes[j]["values"].keys()
        overlap[i, j] = len(both) / min(len(nodes[i]["values"]), len(nodes[j]["values"]))
    centre = statistics.median(overlap.values())
    bound = max(0.4, centre + 6 * mad(overlap.values(), centre))
    by_time = sorted(left(), key=lambda i: (nodes[i]["at"], nodes[i]["key"]))
    for at, i in enumerate(by_time):
        for j in (j for j in by_time[:at] if j not in why):
            a, b = nodes[i]["values"], nodes[j]["values"]
            both = a.keys() & b.keys()
            if overlap[min(i, j), max(i, j)] > bound and both:
                norms = math.sqrt(sum(a[p] ** 2 for p in both)) * math.sqrt(sum(b[p] ** 2 for p in both))
                if sum(a[p] * b[p] for p in both) / norms > 0.95:
                    why[i] = "copy_of"
    some = left()
    assert len(some) >= 6
    c = {}
    for i in some:
        cosines = []
        for j in some:
            if i != j:
                lower, higher = sorted((nodes[i], nodes[j]), key=lambda node: node["key"])
                product = dot(lower["values"], higher["values"], ELEMENTS)
                cosines.append(product / (nodes[i]["norm"] * nodes[j]["norm"]))
        c[i] = statistics.median(cosines)
    agree = [c[i] for i in some if c[i] > 0]
    centre = statistics.median(agree)
    least = centre - 3.5 * (1.4826 * mad(agree, centre) + 0.01)
    for i in some:
        why[i] = "against" if c[i] <= 0 else "outlier" if c[i] < least else None
    bound = statistics.median([nodes[i]["norm"] for i in left()])
    return why, [bound / node["norm"] if why[i] is None and node["norm"] > bound else 1.0 for i, node in enumerate(nodes)]


def weights(raw):
    """Shares of those that count, in key order, each of another owner, all audited: water under 1.5 / n and a fifth."""
    n = len(raw)
    cap, owner = min(1.5 / n, 1.0), 0.2
    level = 1.0 / n
    assert level <= owner, "enough owners"
    speeds = [x / max(raw) for x in raw]
    shares, full = [0.0] * n, [False] * n
    while True:
        rest, rising = 1.0 - sum_of(shares), [i for i in range(n) if not full[i]]
        if rest <= 0 or not rising:
            break
        time = rest / sum_of([speeds[i] for i in rising])
        for i in rising:
            time = min(time, (cap - shares[i]) / speeds[i], (owner - shares[i]) / speeds[i])
        for i in rising:
            shares[i] += max(time, 0.0) * speeds[i]
        stopped = [i for i in rising if min(cap, owner) - shares[i] <= 1e-12]
        for i in stopped:
            full[i] = True
        if not stopped:
            break
    total = sum_of(shares)
    return [share / total for share in shares]


def sum_of(numbers):
    total = 0.0
    for x in numbers:
        total += x
    return total


def bits(x):
    return struct.pack(">d", x).hex()


def vector():
    data = updates(9)
    nodes = []
    for i, one in enumerate(data):
        _, values, norm = codec.decode(one)
        nodes.append({"key": key(i), "values": values, "norm": norm, "at": 1_000 * (20 - i) if i != 8 else 60_000})
    why, scales = gates(nodes)
    order = sorted((i for i in range(9) if why[i] is None), key=lambda i: key(i))
    shares = dict(zip(order, weights([(100.0 + 20 * i) * 1000.0 / 1000.0 * 1000.0 / 1000.0 for i in order])))
    target = [0.0] * ELEMENTS
    for i in order:
        factor = shares[i] * scales[i]
        for place, value in nodes[i]["values"].items():
            target[place] += factor * value
    residue = [codec.f32(x / 4096) for x in codec.pattern(ELEMENTS, 55)]
    target = [codec.f32(r + m) for r, m in zip(residue, target)]
    parent = [codec.f32(x / 8) for x in codec.pattern(ELEMENTS, 77)]
    return data, nodes, why, scales, shares, target, residue, parent


def main():
    data, nodes, why, scales, shares, target, residue, parent = vector()
    tensors = [["w", "F16", [ELEMENTS], b"".join(struct.pack("<e", x) for x in parent)]]
    file = codec.safetensors(tensors)
    subject = codec.full_subject(
        base=hashlib.sha256(file).digest(), layout=codec.layout_id(tensors), origin={"updates": len(shares)}
    )
    blocks, left = [], []
    for at in range(0, ELEMENTS, codec.BLOCK):
        values = target[at : at + codec.BLOCK]
        blocks.append(codec.encode_block(values, TENTH))
        sent, _ = codec.decode_block(blocks[-1], len(values), TENTH)
        for i, wanted in enumerate(values):
            if i in sent:
                old = struct.unpack("<e", struct.pack("<e", parent[at + i]))[0]
                new = struct.unpack("<e", struct.pack("<e", codec.f32(old + sent[i])))[0]
                wanted = codec.f32(wanted - (new - old))
            left.append(wanted)
    after = codec.residue_bytes(subject, left)
    before = hashlib.sha256(codec.residue_bytes(subject, residue)).digest()
    body = codec.training(subject, ELEMENTS) + struct.pack("<Q", subject["round"]) + subject["base"]
    body += bytes([2]) + struct.pack("<I", len(shares)) + struct.pack("<BBI", *TENTH)
    body += before + hashlib.sha256(after).digest() + b"".join(struct.pack("<I", len(block)) for block in blocks)
    delta = b"OWMU" + struct.pack("<HHI", 1, 0, 12 + len(body)) + body + b"".join(blocks)
    out = {
        "elements": ELEMENTS,
        "parent_sha256": hashlib.sha256(file).hexdigest(),
        "updates": [
            {
                "node": nodes[i]["key"].hex(),
                "committed_at": nodes[i]["at"],
                "samples": 100 + 20 * i,
                "sha256": hashlib.sha256(one).hexdigest(),
                "rejected": why[i],
                "scale": bits(scales[i]),
                "weight": bits(shares.get(i, 0.0)),
            }
            for i, one in enumerate(data)
        ],
        "delta_sha256": hashlib.sha256(delta).hexdigest(),
        "residue_before_sha256": before.hex(),
        "residue_after_sha256": hashlib.sha256(after).hexdigest(),
    }
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
