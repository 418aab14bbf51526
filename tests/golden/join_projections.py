#!/usr/bin/env python3
"""Llama checkpoints as Phi-3 would store them: join_projections.py TO FOLDER writes a directory into TO for each one in FOLDER that has
golden values. q, k and v become one qkv_proj, gate and up one gate_up_proj; the model and so its golden values stay the same."""
import json
import pathlib
import shutil
import struct
import sys

PARTS = {"self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
         "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"]}
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1}
ALONG_OUTPUTS = {"qweight", "qzeros", "scales"}  # of AWQ's gemm and of GPTQ: [.., N]; everything else begins with N
SHARED = {"g_idx", "weight_g_idx", "weight.quant_map"}  # of the inputs, or of the format


class NotJoined(Exception):
    pass


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]) for name, t in header.items()}


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def join(suffix, parts):
    dtype, shape, first = parts[0]
    if suffix in SHARED or not shape:
        if any(part[2] != first for part in parts):
            raise NotJoined(f"{suffix} differ")
        return parts[0]
    if suffix.startswith("weight.quant_state"):
        states = [json.loads(bytes(data)) for _, _, data in parts]
        if any("nested_offset" in state for state in states):
            raise NotJoined("scales are double quantized, each part by its own offset")
        state = dict(states[0], shape=[sum(s["shape"][0] for s in states), states[0]["shape"][1]])
        data = json.dumps(state).encode()
        return dtype, [len(data)], data
    if suffix == "weight_shape":
        extents = [struct.unpack("<2q" if dtype == "I64" else "<2i", data) for _, _, data in parts]
        return "I64", [2], struct.pack("<2q", sum(e[0] for e in extents), extents[0][1])
    if dtype == "I16":
        raise NotJoined("packed in tiles")
    if suffix not in ALONG_OUTPUTS:
        return dtype, [sum(part[1][0] for part in parts)] + shape[1:], b"".join(part[2] for part in parts)
    lines = shape[0]
    pitches = [part[1][1] * SIZES[dtype] for part in parts]
    data = b"".join(part[2][line * pitch:(line + 1) * pitch] for line in range(lines) for part, pitch in zip(parts, pitches))
    return dtype, [lines, sum(part[1][1] for part in parts)], data


def joined(tensors):
    out = dict(tensors)
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    for layer in sorted(layers):
        for whole, names in PARTS.items():
            prefix = f"model.layers.{layer}."
            suffixes = [{name[len(prefix + part) + 1:] for name in tensors if name.startswith(f"{prefix}{part}.")} for part in names]
            if any(suffix != suffixes[0] for suffix in suffixes):
                raise NotJoined("the parts have different tensors")
            for suffix in sorted(suffixes[0]):
                parts = [out.pop(f"{prefix}{part}.{suffix}") for part in names]
                if any((part[0], len(part[1])) != (parts[0][0], len(parts[0][1])) for part in parts):
                    raise NotJoined(f"{suffix} differ in type")
                out[f"{prefix}{whole}.{suffix}"] = join(suffix, parts)
    return out


def convert(source, to):
    config = json.loads((source / "config.json").read_text())
    if config.get("architectures") != ["LlamaForCausalLM"] or not (source / "golden.json").exists():
        return False
    quantization = config.get("quantization_config", {})
    if quantization.get("quant_method") == "awq" and quantization.get("version", "gemm").lower() != "gemm":
        raise NotJoined("packed along the inputs, or in tiles")
    if quantization.get("checkpoint_format") == "gptq_p" or quantization.get("dynamic"):
        raise NotJoined("the configuration is of single modules, or the layout of tiles")
    if not (source / "model.safetensors").exists():
        raise NotJoined("sharded")
    tensors = joined(read(source / "model.safetensors"))
    config.update(architectures=["Phi3ForCausalLM"], model_type="phi3")
    to.mkdir(parents=True, exist_ok=True)
    (to / "config.json").write_text(json.dumps(config))
    for name in ("golden.json", "golden.safetensors", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, to / name)
    write(to / "model.safetensors", tensors)
    return True


def main(to, folder):
    count = 0
    if not pathlib.Path(folder).is_dir():
        print(f"no reference checkpoints in {folder}: nothing was joined")
        return 77
    for source in sorted(path for path in pathlib.Path(folder).iterdir() if (path / "config.json").exists()):
        try:
            count += convert(source, pathlib.Path(to) / f"joined-{source.name}")
        except NotJoined as reason:
            print(f"not joined: {source.name}: {reason}")
    print(f"{count} checkpoints joined in {to}")
    return 0 if count else 77


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
