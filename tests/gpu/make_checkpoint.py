#!/usr/bin/env python3
"""Writes a checkpoint of random weights in a published shape, for measuring loads: make_checkpoint.py SHAPE FORMAT DIR.

SHAPE: mistral-7b, mistral-8-layers, qwen2.5-0.5b; FORMAT: awq, gptq, gptq-actorder, nf4, nf4-double, int8, f16. Values are random
but of a model's size, so that it also runs. Needs numpy only."""
import json
import pathlib
import struct
import sys

import numpy as np

SHAPES = {  # hidden, intermediate, layers, heads, kv heads, vocabulary, tied
    "test": (256, 512, 2, 4, 2, 320, False),
    "mistral-7b": (4096, 14336, 32, 32, 8, 32000, False),
    "mistral-8-layers": (4096, 14336, 8, 32, 8, 32000, False),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936, True),
}
GROUP = 128
random = np.random.default_rng(1)
noise = random.integers(0, 1 << 32, 1 << 22, dtype=np.uint32)
absmax = (noise[: 1 << 16] % 1000 / 1e3 + 0.5).astype(np.float32)
normal = random.standard_normal(1 << 20).astype(np.float32)
SIZES = {"U8": 1, "I8": 1, "F16": 2, "I32": 4, "F32": 4}


def words(count):
    """Random 32-bit words, made at the speed of memory."""
    start = int(random.integers(0, 1 << 16))
    return np.resize(noise[start:], count)


def halves(shape, size):
    return np.resize((normal * size).astype(np.float16), shape)


def linear(name, n, k, form):
    """Yields (tensor name, dtype, shape, a function that makes the values)."""
    if form == "f16":
        yield name + ".weight", "F16", [n, k], lambda: halves(n * k, k ** -0.5)
    elif form == "int8":
        yield name + ".weight", "I8", [n, k], lambda: words(n * k // 4)
        yield name + ".SCB", "F32", [n], lambda: np.resize(absmax, n) * np.float32(2 * k ** -0.5)
    elif form.startswith("nf4"):
        blocks, size = n * k // 64, np.float32(2 * k ** -0.5)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [n, k]}
        yield name + ".weight", "U8", [n * k // 2, 1], lambda: words(n * k // 8)
        if form == "nf4-double":
            nested = (blocks + 255) // 256
            yield name + ".weight.absmax", "U8", [blocks], lambda: words((blocks + 3) // 4).view(np.uint8)[:blocks]
            yield name + ".weight.nested_absmax", "F32", [nested], lambda: np.resize(absmax, nested) * size
            yield name + ".weight.nested_quant_map", "F32", [256], lambda: np.linspace(-1, 1, 256, dtype=np.float32)
            state.update(nested_blocksize=256, nested_dtype="float32", nested_offset=float(2 * size))
        else:
            yield name + ".weight.absmax", "F32", [blocks], lambda: np.resize(absmax, blocks) * size
        yield name + ".weight.quant_map", "F32", [16], lambda: np.array(NF4, dtype=np.float32)
        state = json.dumps(state).encode()
        yield name + ".weight.quant_state.bitsandbytes__nf4", "U8", [len(state)], lambda: np.frombuffer(state, dtype=np.uint8)
    else:
        groups = k // GROUP
        if form == "awq":
            yield name + ".qweight", "I32", [k, n // 8], lambda: words(k * n // 8)
            yield name + ".qzeros", "I32", [groups, n // 8], lambda: words(groups * n // 8)
        else:
            yield name + ".qweight", "I32", [k // 8, n], lambda: words(k * n // 8)
            yield name + ".qzeros", "I32", [groups, n // 8], lambda: np.full(groups * n // 8, 0x77777777, dtype=np.uint32)
            order = np.random.default_rng(k).permutation(k) if form == "gptq-actorder" else np.arange(k)
            yield name + ".g_idx", "I32", [k], lambda: (order // GROUP).astype(np.int32)
        yield name + ".scales", "F16", [groups, n], lambda: np.abs(halves(groups * n, 0.2 * k ** -0.5)) + np.float16(1e-3)


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def tensors(shape, form):
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    head_dim = hidden // heads
    yield "model.embed_tokens.weight", "F16", [vocabulary, hidden], lambda: halves(vocabulary * hidden, 1.0)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield prefix + name + ".weight", "F16", [hidden], lambda: np.ones(hidden, dtype=np.float16)
        for name, n, k in (("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv_heads * head_dim, hidden),
                           ("self_attn.v_proj", kv_heads * head_dim, hidden), ("self_attn.o_proj", hidden, hidden),
                           ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden), ("mlp.down_proj", hidden, inner)):
            yield from linear(prefix + name, n, k, form)
    yield "model.norm.weight", "F16", [hidden], lambda: np.ones(hidden, dtype=np.float16)
    if not tied:
        yield "lm_head.weight", "F16", [vocabulary, hidden], lambda: halves(vocabulary * hidden, hidden ** -0.5)


def quantization(form):
    if form == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    if form == "int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True}
    if form.startswith("nf4"):
        return {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float16",
                "bnb_4bit_use_double_quant": form == "nf4-double"}
    return {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": form == "gptq-actorder"}


def main(shape, form, directory):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
              "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": tied,
              "torch_dtype": "float16"}
    if form != "f16":
        config["quantization_config"] = quantization(form)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    header, at = {}, 0
    for name, dtype, extents, _ in tensors(shape, form):
        size = SIZES[dtype] * int(np.prod(extents))
        header[name] = {"dtype": dtype, "shape": extents, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, make in tensors(shape, form):
            make().tofile(file)
    print(f"{directory}: {at / 1e9:.2f} GB")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    main(*sys.argv[1:])
