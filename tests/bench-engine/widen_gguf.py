"""Writes a GGUF file with every tensor dequantised to f32 or f16 (vectors always f32), all else
copied: `widen_gguf.py IN f32|f16 OUT`. So llama.cpp computes with the very weights that our importer
makes of the same file."""

import sys

import gguf
import numpy as np

SKIPPED = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type"}


def main(source: str, precision: str, target: str) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name in SKIPPED:
            continue
        kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    kinds = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
    writer.add_file_type(kinds[precision])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wide = np.float32 if precision == "f32" or len(tensor.shape) == 1 else np.float16
        # Our importer rounds to f16, whatever is computed in afterwards.
        if len(tensor.shape) > 1:
            values = values.astype(np.float16)
        writer.add_tensor(tensor.name, values.astype(wide))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
