"""The update codec as one would write it with numpy: top-k per 4096, two magnitudes and a sign, Rice-coded
gaps. owm-bench runs it: FILE K ROUNDS; it prints seconds to encode, seconds to decode, bytes. Slabs of a
million elements, or its temporary arrays would be gigabytes."""
import sys
import time

import numpy as np

CHUNK, SLAB = 4096, 256


def encode(x, k):
    magnitude = np.abs(x)
    index = np.argpartition(magnitude, CHUNK - k, axis=1)[:, CHUNK - k :]
    index.sort(axis=1)
    kept = np.take_along_axis(x, index, axis=1)
    magnitude = np.abs(kept)
    threshold = magnitude.mean(axis=1, keepdims=True)
    for _ in range(6):
        large = magnitude >= threshold
        above = (magnitude * large).sum(axis=1, keepdims=True) / np.maximum(large.sum(axis=1, keepdims=True), 1)
        below = (magnitude * ~large).sum(axis=1, keepdims=True) / np.maximum((~large).sum(axis=1, keepdims=True), 1)
        threshold = (above + below) / 2
    signs, larges = np.packbits(kept < 0), np.packbits(large)
    gaps = np.diff(index, axis=1, prepend=-1).ravel() - 1
    rice = min(range(12), key=lambda b: int((gaps >> b).sum()) + b * gaps.size)
    ends = np.cumsum((gaps >> rice) + 1)
    unary = np.zeros(ends[-1], np.uint8)
    unary[ends - 1] = 1
    low = np.packbits((gaps[:, None] >> np.arange(rice) & 1).astype(np.uint8))
    levels = np.concatenate([below, above], axis=1).astype(np.float32)
    x[np.arange(len(x))[:, None], index] -= np.where(large, above, below) * np.sign(kept)
    return levels, signs, larges, rice, low, np.packbits(unary), gaps.size


def decode(coded, k, out):
    levels, signs, larges, rice, low, unary, n = coded
    ends = np.flatnonzero(np.unpackbits(unary))[:n]
    gaps = np.diff(ends, prepend=-1) - 1 << rice
    if rice:
        bits = np.unpackbits(low)[: n * rice].reshape(n, rice)
        gaps += (bits.astype(np.int64) << np.arange(rice)).sum(axis=1)
    index = np.cumsum((gaps + 1).reshape(-1, k), axis=1) - 1
    large = np.unpackbits(larges)[:n].reshape(-1, k)
    negative = np.unpackbits(signs)[:n].reshape(-1, k)
    values = np.take_along_axis(levels, large.astype(np.int64), axis=1) * (1.0 - 2.0 * negative)
    out[np.arange(len(out))[:, None], index] += values.astype(np.float32)


def main():
    file, k, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    step = np.fromfile(file, np.float32)
    step = step[: len(step) // CHUNK * CHUNK].reshape(-1, CHUNK)
    times, size = [], 0
    for _ in range(rounds):
        encoding = decoding = 0.0
        size = 0
        for at in range(0, len(step), SLAB):
            x = step[at : at + SLAB].copy()
            start = time.perf_counter()
            coded = encode(x, k)
            middle = time.perf_counter()
            decode(coded, k, x)
            decoding += time.perf_counter() - middle
            encoding += middle - start
            size += sum(part.nbytes for part in coded if isinstance(part, np.ndarray))
        times.append((encoding, decoding))
    print(min(t[0] for t in times), min(t[1] for t in times), size)


main()
