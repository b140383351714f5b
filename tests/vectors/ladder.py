#!/usr/bin/env python3
"""Makes ladder.json: SHA-256 midstate ladders by a SHA-256 of its own, so that the Rust code is
checked against something that shares no line with it. hashlib only confirms the final digest.

    python3 tests/vectors/ladder.py > tests/vectors/ladder.json
"""
import hashlib
import json
import struct

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
M = 0xFFFFFFFF


def cube_root_bits(prime):
    """First 32 bits of the fraction of the cube root, by integers only."""
    lo, hi = 0, prime << 40
    while lo < hi:
        mid = (lo + hi + 1) // 2
        lo, hi = (mid, hi) if mid**3 <= prime << 120 else (lo, mid - 1)
    return (lo >> 8) & M


def primes(n):
    found = []
    candidate = 2
    while len(found) < n:
        if all(candidate % p for p in found):
            found.append(candidate)
        candidate += 1
    return found


K = [cube_root_bits(p) for p in primes(64)]


def rotr(x, n):
    return (x >> n | x << (32 - n)) & M


def compress(state, block):
    w = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ (w[t - 15] >> 3)
        s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ (w[t - 2] >> 10)
        w.append((w[t - 16] + s0 + w[t - 7] + s1) & M)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)
        t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t]) & M
        s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)
        t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) & M
        a, b, c, d, e, f, g, h = (t1 + t2) & M, a, b, c, (d + t1) & M, e, f, g
    return [(x + y) & M for x, y in zip(state, (a, b, c, d, e, f, g, h))]


def content(size):
    """Byte k of every vector's file."""
    return bytes((k * 31 + (k >> 8) * 7 + (k >> 16) * 3 + 5) & 0xFF for k in range(size))


def vector(name, size, piece_len):
    data = content(size)
    padded = data + b"\x80" + bytes(-(size + 9) % 64) + struct.pack(">Q", 8 * size)
    state, ladder = IV, []
    for at in range(0, len(padded), 64):
        state = compress(state, padded[at : at + 64])
        done = at + 64
        if done <= size and done % piece_len == 0:
            ladder.append(struct.pack(">8I", *state))
    digest = struct.pack(">8I", *state)
    assert digest == hashlib.sha256(data).digest(), name
    assert len(ladder) == size // piece_len, name
    out = {"name": name, "size": size, "piece_len": piece_len, "sha256": digest.hex()}
    if ladder:
        out["ladder"] = [state.hex() for state in ladder]
        out["ladder_sha256"] = hashlib.sha256(b"".join(ladder)).hexdigest()
    return out


P = 1 << 18
print(
    json.dumps(
        [
            vector("empty", 0, P),
            vector("one byte", 1, P),
            vector("one piece less one byte", P - 1, P),
            vector("one piece", P, P),
            vector("one piece and one byte", P + 1, P),
            vector("two pieces less one byte", 2 * P - 1, P),
            vector("two pieces", 2 * P, P),
            vector("two pieces and one byte", 2 * P + 1, P),
            vector("the last tail whose padding fits its block", P + 55, P),
            vector("the first tail whose padding spills over", P + 56, P),
            vector("the last tail whose padding spills over", P + 63, P),
            vector("a longer piece", (1 << 19) + 77, 1 << 19),
        ],
        indent=1,
    )
)
