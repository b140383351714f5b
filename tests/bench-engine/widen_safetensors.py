"""Copies a Hugging Face directory with its f16 weights widened to f32: `widen_safetensors.py IN OUT`.
The same numbers in twice the bytes, for the comparison at equal precision."""

import json
import os
import shutil
import struct
import sys

import numpy as np


def main(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(source, name)):
            shutil.copy(os.path.join(source, name), target)
    with open(os.path.join(source, "model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    parts, at = [], 0
    for tensor in header.values():
        start, end = tensor["data_offsets"]
        kind = {"F16": "<f2", "F32": "<f4"}[tensor["dtype"]]
        wide = np.frombuffer(data[start:end], kind).astype("<f4").tobytes()
        tensor.update(dtype="F32", data_offsets=[at, at + len(wide)])
        parts.append(wide)
        at += len(wide)
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with open(os.path.join(target, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(said)) + said)
        file.writelines(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
