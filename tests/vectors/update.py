#!/usr/bin/env python3
"""Makes update.json: federated updates, residues and checkpoints by an encoder, a decoder and an apply of its
own, in plain Python, so that the Rust code is checked against something that shares no line with it. It
follows docs/fl-protocol.md; what it encodes it also decodes again, from the bytes alone.

    python3 tests/vectors/update.py > tests/vectors/update.json
    python3 tests/vectors/update.py show FILE       # decodes an update: header, values, norm
"""
import hashlib
import json
import math
import struct
import sys
from fractions import Fraction

CHUNK, BLOCK = 4096, 65536
SMALLEST = 2.0**-126


def f32(x):
    """x (a Python float, so an f64), rounded to nearest even."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bits32(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def from_bits32(b):
    return struct.unpack("<f", struct.pack("<I", b))[0]


def toward_zero(x):
    """The largest f32 that is not above x > 0."""
    near = f32(x)
    return from_bits32(bits32(near) - 1) if near > x else near


def sha(data):
    return hashlib.sha256(data).hexdigest()


def pattern(n, seed):
    """Element i of every vector's dense numbers: exact in f32, magnitudes over eight octaves."""
    out = []
    for i in range(n):
        h = ((i + seed) * 2654435761 + (i >> 7) * 40503 * (seed + 1)) & 0xFFFFFFFF
        out.append(((h >> 8) - (1 << 23)) * 2.0 ** -(23 + (h & 7)))
    return out


# --- bits, lowest of each byte first -------------------------------------------------------------------


class Writer:
    def __init__(self):
        self.bits = []

    def number(self, value, width):
        self.bits += [value >> i & 1 for i in range(width)]

    def bytes(self):
        bits = self.bits + [0] * (-len(self.bits) % 8)
        return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bit(self):
        bit = self.data[self.at // 8] >> (self.at % 8) & 1
        self.at += 1
        return bit

    def number(self, width):
        return sum(self.bit() << i for i in range(width))

    def align(self):
        while self.at % 8:
            assert self.bit() == 0, "padding"

    def take(self, fmt):
        assert self.at % 8 == 0
        values = struct.unpack_from("<" + fmt, self.data, self.at // 8)
        self.at += 8 * struct.calcsize("<" + fmt)
        return values if len(values) > 1 else values[0]


# --- blocks ---------------------------------------------------------------------------------------------


def keep_of(length, ppm):
    return -(-length * ppm // 1_000_000)


def top(values, keep):
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:keep]
    return sorted(i for i in order if abs(values[i]) >= SMALLEST)


def lanes(numbers):
    sums = [0.0] * 8
    for i, x in enumerate(numbers):
        sums[i % 8] += x
    total = 0.0
    for x in sums:
        total += x
    return total


def groups(kept, threshold):
    total = lanes([abs(x) for x in kept])
    above = lanes([abs(x) if abs(x) >= threshold else 0.0 for x in kept])
    large = sum(abs(x) >= threshold for x in kept)
    small = len(kept) - large
    if small == 0:
        return above / large, above / large, large
    if large == 0:
        return total / small, total / small, large
    return (total - above) / small, above / large, large


def two_bits(kept):
    threshold = groups(kept, 0.0)[1]
    low, high, large = groups(kept, threshold)
    for _ in range(16):
        moved = (low + high) / 2
        following = groups(kept, moved)
        if following[2] == large:
            break
        threshold, (low, high, large) = moved, following
    low, high = (max(bits32(toward_zero(x)) >> 16, 0x0080) for x in (low, high))
    codes = [(x < 0) | (low != high and abs(x) >= threshold) << 1 for x in kept]
    return low, high, codes


def half_away(x):
    return math.copysign(math.floor(abs(x) + 0.5), x)


def eight_bits(kept):
    largest = max(abs(x) for x in kept)
    codes = [int(half_away(x * 127.0 / largest)) for x in kept]
    dot = square = 0.0
    for x, code in zip(kept, codes):
        dot += x * code
        square += float(code * code)
    return toward_zero(dot / square * 127.0), codes


def gaps_of(chunks):
    out = []
    for places in chunks:
        following = 0
        for place in places:
            out.append(place - following)
            following = place + 1
    return out


def encode_block(values, codec):
    width, coding, ppm = codec
    chunks, scales, codes, full = [], b"", [], True
    for at in range(0, len(values), CHUNK):
        chunk = values[at : at + CHUNK]
        places = top(chunk, keep_of(len(chunk), ppm))
        kept = [chunk[i] for i in places]
        if kept and width == 2:
            low, high, new = two_bits(kept)
            scales += struct.pack("<HH", low, high)
        elif kept and width == 8:
            maximum, new = eight_bits(kept)
            scales += struct.pack("<f", maximum)
            places = [i for i, code in zip(places, new) if code]
            new = [code & 0xFF for code in new if code]
        else:
            new = [bits32(x) for x in kept]
        codes += new
        chunks.append(places)
        full &= len(places) == keep_of(len(chunk), ppm)
    if not codes:
        return b""
    gaps, rice = gaps_of(chunks), 0
    if coding == 1:
        rice = min(range(12), key=lambda b: (sum((g >> b) + 1 + b for g in gaps), b))
    out = bytes([rice | (0 if full else 0x80)])
    if not full:
        out += b"".join(struct.pack("<H", len(places)) for places in chunks)
    low = Writer()
    for number in gaps if coding == 1 else [place for places in chunks for place in places]:
        low.number(number, rice if coding == 1 else 12)
    value_bits = Writer()
    for code in codes:
        value_bits.number(code, width)
    out += scales + low.bytes() + value_bits.bytes()
    if coding == 1:
        unary = Writer()
        for gap in gaps:
            unary.bits += [0] * (gap >> rice) + [1]
        out += unary.bytes()
    return out


def decode_block(data, length, codec):
    """{place: value} and the sum of the squares."""
    width, coding, ppm = codec
    if not data:
        return {}, 0.0
    lengths = [min(CHUNK, length - at) for at in range(0, length, CHUNK)]
    reader = Reader(data)
    first = reader.take("B")
    rice = first & 0x7F
    counts = [reader.take("H") if first & 0x80 else keep_of(n, ppm) for n in lengths]
    scales = [reader.take("HH" if width == 2 else "f") if width < 32 and n else None for n in counts]
    n = sum(counts)
    low = [reader.number(rice if coding == 1 else 12) for _ in range(n)]
    reader.align()
    codes = [reader.number(width) for _ in range(n)]
    reader.align()
    values, square, at = {}, 0.0, 0
    for chunk, count in enumerate(counts):
        following, part, large = 0, 0.0, 0
        for _ in range(count):
            number = low[at]
            if coding == 1:
                zeros = 0
                while not reader.bit():
                    zeros += 1
                number = following + (zeros << rice | number)
            assert following <= number < lengths[chunk], "places"
            following = number + 1
            code = codes[at]
            if width == 2:
                value = from_bits32(scales[chunk][code >> 1] << 16) * (1 - 2 * (code & 1))
                large += code >> 1
            elif width == 8:
                value = f32(scales[chunk] * float(code - 256 if code > 127 else code) / 127.0)
            else:
                value = from_bits32(code)
            values[chunk * CHUNK + number] = value
            part += value * value
            at += 1
        if count and width == 2:
            small, high = (from_bits32(scale << 16) for scale in scales[chunk])
            part = (count - large) * small * small + large * high * high
        square += part
    reader.align()
    assert reader.at == 8 * len(data), "trailing bytes"
    return values, square


# --- updates and residues ------------------------------------------------------------------------------

NETWORK, BASE, LAYOUT, NODE = (hashlib.sha256(x).digest() for x in (b"network", b"base", b"layout", b"node"))


def mode_section(mode):
    if mode is None:
        return bytes([1])
    bitmap = bytearray(-(-mode["tensors"] // 8))
    for place in mode["targets"]:
        bitmap[place // 8] |= 1 << place % 8
    seed = bytes.fromhex(mode["seed"])
    return bytes([2]) + struct.pack("<IH", mode["epoch"], mode["rank"]) + seed + struct.pack("<I", mode["tensors"]) + bitmap


def training(subject, elements):
    name = subject["sub_model"].encode()
    return NETWORK + bytes([len(name)]) + name + subject["layout"] + struct.pack("<Q", elements) + mode_section(subject["mode"])


def residue_bytes(subject, values):
    values = [x + 0.0 for x in values]
    return b"OWMR" + struct.pack("<HH", 1, 0) + training(subject, len(values)) + struct.pack(f"<{len(values)}f", *values)


def norm_of(values):
    total = 0.0
    for at in range(0, len(values), BLOCK):
        total += lanes([x * x for x in values[at : at + BLOCK]])
    return math.sqrt(total)


def encode(subject, codec, step, residue=None):
    before = bytes(32)
    if residue is not None:
        before = hashlib.sha256(residue_bytes(subject, residue)).digest()
        step = [f32(x + f32(f32(0.95) * r)) for x, r in zip(step, residue)]
    origin = subject["origin"]
    if "clip" in origin:
        bound, norm = origin["clip"] * (1 - 2.0**-22), norm_of(step)
        if norm > bound:
            step = [f32(x * (bound / norm)) for x in step]
    blocks, left = [], []
    for at in range(0, len(step), BLOCK):
        values = step[at : at + BLOCK]
        blocks.append(encode_block(values, codec))
        sent, _ = decode_block(blocks[-1], len(values), codec)
        left += [f32(x - sent[i]) if i in sent else x for i, x in enumerate(values)]
    after = residue_bytes(subject, left)
    body = training(subject, len(step)) + struct.pack("<Q", subject["round"]) + subject["base"]
    if "clip" in origin:
        body += bytes([1]) + NODE + struct.pack("<QIf", origin["samples"], origin["steps"], origin["clip"])
    else:
        body += bytes([2]) + struct.pack("<I", origin["updates"])
    width, coding, ppm = codec
    body += struct.pack("<BBI", width, coding, ppm) + before + hashlib.sha256(after).digest()
    body += b"".join(struct.pack("<I", len(block)) for block in blocks)
    head = b"OWMU" + struct.pack("<HHI", 1, 0, 12 + len(body))
    return head + body + b"".join(blocks), after


def decode(data):
    """An update's header, its values by element, and its norm."""
    reader = Reader(data)
    assert data[:4] == b"OWMU"
    _, version, reserved, header_bytes = reader.take("IHHI")
    assert (version, reserved) == (1, 0)
    header = {"network": bytes(reader.take("32B")).hex()}
    name = reader.take("B")
    header["sub_model"] = "".join(chr(reader.take("B")) for _ in range(name))
    header["layout"] = bytes(reader.take("32B")).hex()
    elements = header["elements"] = reader.take("Q")
    header["mode"] = reader.take("B")
    if header["mode"] == 2:
        header["epoch"], header["rank"] = reader.take("IH")
        header["seed"] = bytes(reader.take("32B")).hex()
        tensors = reader.take("I")
        bitmap = [reader.take("B") for _ in range(-(-tensors // 8))]
        header["targets"] = [i for i in range(tensors) if bitmap[i // 8] >> i % 8 & 1]
    header["round"] = reader.take("Q")
    header["base"] = bytes(reader.take("32B")).hex()
    if reader.take("B") == 1:
        header["node"] = bytes(reader.take("32B")).hex()
        header["samples"], header["steps"], header["clip"] = reader.take("QIf")
    else:
        header["updates"] = reader.take("I")
    codec = header["codec"] = reader.take("BBI")
    header["residue_before"] = bytes(reader.take("32B")).hex()
    header["residue_after"] = bytes(reader.take("32B")).hex()
    blocks = -(-elements // BLOCK)
    lengths = [reader.take("I") for _ in range(blocks)]
    assert reader.at == 8 * header_bytes, "header length"
    values, square, at = {}, 0.0, header_bytes
    for block, length in enumerate(lengths):
        size = min(BLOCK, elements - block * BLOCK)
        places, part = decode_block(data[at : at + length], size, codec)
        values.update({block * BLOCK + place: value for place, value in places.items()})
        square += part
        at += length
    assert at == len(data), "trailing bytes"
    return header, values, math.sqrt(square)


# --- checkpoints ----------------------------------------------------------------------------------------

KINDS = {"F32": (4, 23, -126), "F16": (2, 10, -14), "BF16": (2, 7, -126)}


def read_number(kind, data):
    if kind == "F32":
        return struct.unpack("<f", data)[0]
    if kind == "F16":
        return struct.unpack("<e", data)[0]
    return from_bits32(struct.unpack("<H", data)[0] << 16)


def rne(kind, x):
    """x (f64) rounded once to the kind's nearest, ties to even, by exact fractions."""
    size, fraction, lowest = KINDS[kind]
    if x == 0:
        return (int(math.copysign(1, x) < 0) << (8 * size - 1)).to_bytes(size, "little")
    exponent = max(math.frexp(x)[1] - 1, lowest)
    units = round(Fraction(abs(x)) / Fraction(2) ** (exponent - fraction))  # Python rounds halves to even
    magnitude = (exponent - lowest << fraction) + units
    return (magnitude | (x < 0) << (8 * size - 1)).to_bytes(size, "little")


def safetensors(tensors):
    """tensors: (name, kind, shape, data) in data order; the header names them backwards."""
    offsets, at = {}, 0
    for name, kind, shape, data in tensors:
        offsets[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = {"__metadata__": {"format": "pt"}, **{name: offsets[name] for name in reversed(list(offsets))}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors)


def layout_id(tensors):
    out = b""
    for name, kind, shape, _ in tensors:
        out += struct.pack("<I", len(name)) + name.encode() + bytes([len(kind)]) + kind.encode()
        out += bytes([len(shape)]) + struct.pack(f"<{len(shape)}Q", *shape)
    return hashlib.sha256(out).digest()


def tensor(name, kind, shape, seed):
    n = math.prod(shape)
    if kind not in KINDS:
        return name, kind, shape, struct.pack(f"<{n}q", *range(n))
    return name, kind, shape, b"".join(rne(kind, x / 8) for x in pattern(n, seed))


def apply_full(tensors, values):
    out, first = [], 0
    for name, kind, shape, data in tensors:
        if kind not in KINDS:
            out.append((name, kind, shape, data))
            continue
        size, data = KINDS[kind][0], bytearray(data)
        for i in range(math.prod(shape)):
            if first + i in values:
                here = slice(i * size, i * size + size)
                data[here] = rne(kind, f32(read_number(kind, data[here]) + values[first + i]))
        first += math.prod(shape)
        out.append((name, kind, shape, bytes(data)))
    return out


def chacha_words(key, nonce, count):
    """Keystream words (RFC 8439), block counter from 0."""
    out, counter = [], 0
    while len(out) < count:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), counter, *nonce]
        s = start[:]

        def quarter(a, b, c, d):
            for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[x] = (s[x] + s[y]) & 0xFFFFFFFF
                mixed = s[z] ^ s[x]
                s[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

        for _ in range(10):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        out += [(a + b) & 0xFFFFFFFF for a, b in zip(s, start)]
        counter += 1
    return out[:count]


def lora_a(seed, place, rank, columns):
    scale = f32(1.0 / f32(math.sqrt(columns)))
    words = chacha_words(seed, (0, place, 0), rank * columns)
    return [f32((2 * (w >> 8) + 1 - (1 << 24)) / 16777216.0 * scale) for w in words]


def apply_lora(tensors, mode, values):
    out, first, rank = [], 0, mode["rank"]
    for place, (name, kind, shape, data) in enumerate(tensors):
        if place not in mode["targets"]:
            out.append((name, kind, shape, data))
            continue
        (rows, columns), size = shape, KINDS[kind][0]
        a = lora_a(bytes.fromhex(mode["seed"]), place, rank, columns)
        new = b""
        for o in range(rows):
            for i in range(columns):
                total = 0.0
                for r in range(rank):
                    total += values.get(first + o * rank + r, 0.0) * a[r * columns + i]
                at = (o * columns + i) * size
                new += rne(kind, read_number(kind, data[at : at + size]) + total)
        first += rows * rank
        out.append((name, kind, shape, new))
    return out


# --- vectors --------------------------------------------------------------------------------------------

NODE_WORK = {"samples": 1234, "steps": 30, "clip": 1e9}


def full_subject(**changes):
    subject = {"round": 7, "sub_model": "owm-code", "base": BASE, "layout": LAYOUT, "mode": None, "origin": NODE_WORK}
    return {**subject, **changes}


def dense_sha(values, elements):
    return sha(b"".join(struct.pack("<f", values.get(i, 0.0)) for i in range(elements)))


def vector(name, elements, codec, seed, zero=None, residue=None, **changes):
    """`zero`: [from, to), elements set to 0. `residue`: seed of the one that goes in, a 16th of the pattern."""
    subject = full_subject(**changes)
    step = pattern(elements, seed)
    for i in range(*(zero or (0, 0))):
        step[i] = 0.0
    before = None if residue is None else [x / 16 for x in pattern(elements, residue)]
    data, after = encode(subject, codec, step, before)
    header, values, norm = decode(data)
    assert header["elements"] == elements
    out = {"name": name, "elements": elements, "codec": codec, "seed": seed}
    out |= {"zero": zero} if zero else {}
    out |= {"residue": residue} if residue is not None else {}
    mode, origin = subject["mode"], subject["origin"]
    out |= {"mode": mode} if mode else {}
    out |= {"origin": origin, "bytes": data.hex(), "sha256": sha(data), "values": len(values)}
    out |= {"dense_sha256": dense_sha(values, elements), "norm": struct.pack(">d", norm).hex()}
    return out | {"residue_after_sha256": sha(after)}


def checkpoint(name, tensors, mode, codec, seed):
    parent = safetensors(tensors)
    elements = sum(math.prod(t[2]) for t in tensors if t[1] in KINDS)
    if mode:
        elements = sum(tensors[place][2][0] * mode["rank"] for place in mode["targets"])
    subject = full_subject(
        base=hashlib.sha256(parent).digest(), layout=layout_id(tensors), mode=mode, origin={"updates": 3}
    )
    delta, _ = encode(subject, codec, [x / 64 for x in pattern(elements, seed)])
    _, values, _ = decode(delta)
    new = apply_lora(tensors, mode, values) if mode else apply_full(tensors, values)
    child = safetensors(new)
    changed = sum(
        old[3][at : at + KINDS[old[1]][0]] != fresh[3][at : at + KINDS[old[1]][0]]
        for old, fresh in zip(tensors, new)
        if old[1] in KINDS
        for at in range(0, len(old[3]), KINDS[old[1]][0])
    )
    out = {"name": name, "parent": parent.hex(), "layout": layout_id(tensors).hex(), "delta": delta.hex()}
    return out | {"changed": changed, "child_sha256": sha(child)}


def all_vectors():
    lora = {"epoch": 4, "rank": 4, "seed": sha(b"lora"), "tensors": 5, "targets": [0, 2, 4]}
    two, tenth, sixty_fourth = 2, 100_000, 15_625
    tensors = [
        tensor("model.embed", "F16", [40, 24], 1),
        tensor("model.norm", "F32", [77], 2),
        tensor("model.up", "BF16", [24, 40], 3),
        tensor("model.steps", "I64", [5], 4),
        tensor("model.down", "F32", [24, 16], 5),
    ]
    return {
        "updates": [
            vector("one element", 1, (two, 1, tenth), 1),
            vector("one chunk", 4096, (two, 1, tenth), 2),
            vector("a chunk and one element", 4097, (two, 1, tenth), 3),
            vector("clipped, with a residue", 5000, (two, 1, tenth), 4, residue=90, origin={**NODE_WORK, "clip": 2.5}),
            vector("two blocks, 64 of each 4096", 70000, (two, 1, sixty_fourth), 5),
            vector("a block without values", 140000, (two, 1, sixty_fourth), 6, zero=[65536, 131072]),
            vector("a chunk without values, one with few", 9000, (two, 1, tenth), 7, zero=[30, 8192]),
            vector("nothing at all", 3000, (two, 1, tenth), 8, zero=[0, 3000]),
            vector("8 bits", 5000, (8, 1, tenth), 9),
            vector("8 bits, some too small to be sent", 4500, (8, 1, 900_000), 10),
            vector("packed places", 5000, (two, 2, tenth), 11),
            vector("packed places, 8 bits", 4200, (8, 2, sixty_fourth), 12),
            vector("everything as it is", 600, (32, 1, 1_000_000), 13, residue=91),
            vector("a tenth as it is", 5000, (32, 1, tenth), 14, origin={**NODE_WORK, "clip": 0.5}),
            vector("a mean", 5000, (two, 1, tenth), 15, origin={"updates": 12}),
            vector("B of a LoRA epoch", 5000, (two, 1, tenth), 16, mode=lora, residue=92),
        ],
        "lora_a": [
            {"seed": lora["seed"], "tensor": 3, "rank": 3, "columns": 50}
            | {"sha256": sha(struct.pack("<150f", *lora_a(bytes.fromhex(lora["seed"]), 3, 3, 50)))}
        ],
        "checkpoints": [
            checkpoint("full weights, 2 bits", tensors, None, (two, 1, tenth), 21),
            checkpoint("full weights, everything", tensors, None, (32, 1, 1_000_000), 22),
            checkpoint("LoRA", tensors, lora, (two, 1, 300_000), 23),
        ],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["show"]:
        header, values, norm = decode(open(sys.argv[2], "rb").read())
        shown = {**header, "values": len(values), "norm": norm}
        print(json.dumps(shown | {"dense_sha256": dense_sha(values, header["elements"])}, indent=1))
    else:
        print(json.dumps(all_vectors(), indent=1))
