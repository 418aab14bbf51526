"""Writes a GGUF file of a known model's shape with random weights, for measuring the speed of llama.cpp.

A file's types follow what llama.cpp's own quantizer chooses for the mixes Q4_0 and Q4_K_M: the head is Q6_K; in
Q4_K_M attn_v and ffn_down are Q6_K in the layers that `use_more_bits` picks; rows that 256 does not divide fall back to
Q5_0 (for Q4_K) and Q8_0 (for Q6_K).
"""
import struct

import numpy as np

SHAPES = {  # hidden, intermediate, layers, heads, KV heads, vocabulary, tied head, architecture, rope theta
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True, "llama", 1e5),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936, True, "qwen2", 1e6),
    "tinyllama-1.1b": (2048, 5632, 22, 32, 4, 32000, False, "llama", 1e4),
}

# Type: number in the file, values of a block, bytes of a block, where its float16 scales lie.
TYPES = {
    "F32": (0, 1, 4, ()),
    "Q4_0": (2, 32, 18, (0,)),
    "Q5_0": (6, 32, 22, (0,)),
    "Q8_0": (8, 32, 34, (0,)),
    "Q4_K": (12, 256, 144, (0, 2)),
    "Q6_K": (14, 256, 210, (208,)),
}
FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
ALIGNMENT = 32


def use_more_bits(layer, layers):
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def type_of(mix, name, layer, layers, columns):
    kind = "Q4_0" if mix == "Q4_0" else "Q4_K"
    if name in ("output", "head_embedding"):
        kind = "Q6_K"
    elif mix == "Q4_K_M" and name in ("attn_v", "ffn_down") and use_more_bits(layer, layers):
        kind = "Q6_K"
    return FALLBACK[kind] if columns % 256 and kind in FALLBACK else kind


def random_blocks(kind, rows, columns, generator):
    _, values, size, scales = TYPES[kind]
    blocks = generator.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    small = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    for at in scales:  # a random float16 may be infinite
        blocks[:, at:at + 2] = small
    return blocks


def tensors_of(shape, mix):
    """(name, type, rows, columns); columns = 0 for a vector of `rows` float32."""
    hidden, inner, layers, heads, kv_heads, vocabulary, tied, architecture, _ = SHAPES[shape]
    kv = hidden // heads * kv_heads
    yield "token_embd.weight", type_of(mix, "head_embedding" if tied else "token_embd", 0, layers, hidden), vocabulary, hidden
    for layer in range(layers):
        block = "blk.%d." % layer
        for name, rows, columns in (("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                                    ("attn_output", hidden, hidden), ("ffn_gate", inner, hidden),
                                    ("ffn_up", inner, hidden), ("ffn_down", hidden, inner)):
            yield block + name + ".weight", type_of(mix, name, layer, layers, columns), rows, columns
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                yield block + name + ".bias", "F32", rows, 0
        yield block + "attn_norm.weight", "F32", hidden, 0
        yield block + "ffn_norm.weight", "F32", hidden, 0
    yield "output_norm.weight", "F32", hidden, 0
    if not tied:
        yield "output.weight", type_of(mix, "output", 0, layers, hidden), vocabulary, hidden


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def metadata(shape):
    hidden, inner, layers, heads, kv_heads, vocabulary, _, architecture, theta = SHAPES[shape]
    integer = lambda value: struct.pack("<II", 4, value)
    real = lambda value: struct.pack("<If", 6, value)
    string = lambda value: struct.pack("<I", 8) + text(value)
    pairs = {
        "general.architecture": string(architecture), "general.alignment": integer(ALIGNMENT),
        "tokenizer.ggml.model": string("none"),
        architecture + ".vocab_size": integer(vocabulary), architecture + ".context_length": integer(4096),
        architecture + ".embedding_length": integer(hidden), architecture + ".feed_forward_length": integer(inner),
        architecture + ".block_count": integer(layers), architecture + ".attention.head_count": integer(heads),
        architecture + ".attention.head_count_kv": integer(kv_heads),
        architecture + ".attention.layer_norm_rms_epsilon": real(1e-6), architecture + ".rope.freq_base": real(theta),
        architecture + ".rope.dimension_count": integer(hidden // heads),
    }
    return len(pairs), b"".join(text(key) + value for key, value in pairs.items())


def write(path, shape, mix):
    generator = np.random.default_rng(1)
    tensors = list(tensors_of(shape, mix))
    table, offset = b"", 0
    for name, kind, rows, columns in tensors:
        number, values, size, _ = TYPES[kind]
        dimensions = (columns, rows) if columns else (rows,)  # innermost first
        table += text(name) + struct.pack("<I%dQIQ" % len(dimensions), len(dimensions), *dimensions, number, offset)
        bytes_of = rows * max(columns, 1) // values * size
        offset += -(-bytes_of // ALIGNMENT) * ALIGNMENT
    pair_count, pairs = metadata(shape)
    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), pair_count) + pairs + table)
        out.write(b"\0" * (-out.tell() % ALIGNMENT))
        for name, kind, rows, columns in tensors:
            if columns:
                random_blocks(kind, rows, columns, generator).tofile(out)
            else:
                np.full(rows, 0.0 if name.endswith("bias") else 1.0, np.float32).tofile(out)
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
