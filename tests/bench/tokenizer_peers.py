#!/usr/bin/env python3
"""nibble's tokenizers and the `tokenizers` package on the same text, one thread each, one after the other in one run.

    tests/bench/tokenizer_peers [--bench build/release/tests/bench/tokenizer_bench] [--text FILE] [--seconds N] [DIRECTORY ...]

Prints MB/s of both and the ratio, and fails if the ids differ or a byte-level BPE is slower than 10 MB/s or 1.5 times
the package. Directories and text are those of ../shared unless given.
"""
import argparse
import json
import os
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SHARED = os.path.join(ROOT, "..", "shared")


def hash_of(ids):
    value = 0xcbf29ce484222325
    for i in ids:
        for byte in i.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return "%016x" % value


def parts_of(text, paragraphs):
    parts = text.split("\n\n") if paragraphs else [text]
    return [p for p in [part + "\n\n" for part in parts[:-1]] + parts[-1:] if p]


def theirs(directory, parts, seconds):
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    best, begin = 1e9, time.monotonic()
    while True:
        start = time.monotonic()
        encoded = tokenizer.encode_batch(parts, add_special_tokens=False)
        best = min(best, time.monotonic() - start)
        if time.monotonic() - begin > seconds:
            return sum(len(part.encode()) for part in parts) / best / 1e6, [i for one in encoded for i in one.ids]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default=os.path.join(ROOT, "build/release/tests/bench/tokenizer_bench"))
    parser.add_argument("--text", default=os.path.join(SHARED, "text/emma.txt"))
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("directories", nargs="*", default=[os.path.join(SHARED, "tokenizers", n) for n in ("llama3", "qwen3", "smollm2", "llama2", "t5-mini", "bert-mini")])
    arguments = parser.parse_args()
    with open(arguments.text, encoding="utf-8", newline="") as file:
        text = file.read()
    failed = False
    for paragraphs in (True, False):
        print("%-32s %12s %12s %8s   tokenizers %s" % ("by paragraphs" if paragraphs else "in one piece", "nibble MB/s", "peer MB/s", "ratio", tokenizers.__version__))
        parts = parts_of(text, paragraphs)
        for directory in arguments.directories:
            command = [arguments.bench, directory, arguments.text, str(arguments.seconds)] + ["paragraphs"] * paragraphs
            ours = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            speed, ids = theirs(directory, parts, arguments.seconds)
            with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as file:
                document = json.load(file)
            byte_level = document["model"]["type"] == "BPE" and "ByteLevel" in json.dumps(document["pre_tokenizer"])
            note = ""
            if ours["ids_hash"] != hash_of(ids):
                note, failed = "  IDS DIFFER", True
            elif byte_level and (ours["encode_mb_per_s"] < 10 or ours["encode_mb_per_s"] < 1.5 * speed):
                note, failed = "  TOO SLOW", True
            print("%-32s %12.1f %12.1f %7.1fx%s" % (os.path.basename(os.path.normpath(directory)), ours["encode_mb_per_s"], speed, ours["encode_mb_per_s"] / speed, note))
    sys.exit(failed)


if __name__ == "__main__":
    main()
