#!/usr/bin/env python3
"""Compares nibble's tokenizers with the `tokenizers` package on random Unicode text and random ids.

    differential.py TOKENIZER_DUMP [--seed N] [--texts N] [--dir FOLDER ...]

TOKENIZER_DUMP is the program built from tokenizer_dump.cc. Without --dir, tokenizers are made on the spot: a BPE, a
Unigram, a WordPiece and a WordLevel model trained on a few lines, under many combinations of normalizers,
pre-tokenizers, decoders and added tokens. Exits with 77 (skipped) when the package is not installed, 1 on differences.
"""
import argparse
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile

try:
    import tokenizers
    from tokenizers import Tokenizer, models, trainers, pre_tokenizers
except ImportError:
    print("SKIPPED: the Python package `tokenizers` is not installed (pip install tokenizers)")
    sys.exit(77)

LINES = ["The quick brown fox jumps over the lazy dog, doesn't it? I'll say 1234567890 times: yes!",
         "Straße, naïve façade, coöperate; Ελλάδα και Россия; 東京タワー 日本語 한국어 عربى हिन्दी ไทย",
         "def f(x):\n    return x ** 2  # comment\n\n\tif x == 0: pass", "  spaces   and\ttabs\r\nnew lines\n\n\nend"] * 4
RANGES = [(0x20, 0x7E)] * 10 + [(0x0, 0x1F), (0x7F, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x531, 0x6FF), (0x900, 0xDFF),
          (0xE00, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x20CF), (0x2100, 0x2BFF), (0x3000, 0x33FF), (0x4E00, 0x4FFF),
          (0xA000, 0xABFF), (0xAC00, 0xAD00), (0xF900, 0xFFFD), (0x10000, 0x10FFF), (0x11000, 0x11FFF), (0x16A00, 0x16FFF),
          (0x1D100, 0x1D7FF), (0x1E000, 0x1E9FF), (0x1F000, 0x1FAFF), (0x20000, 0x20100), (0x2EBF0, 0x2EE60), (0x31340, 0x323B0),
          (0xE0000, 0xE01EF), (0x10FFF0, 0x10FFFF)]
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\u200d", "\ufeff", "   "]
WORDS = ["the", "don't", "I'LL", "it\u2019s", "we'\u017f", "1234", "½", "Ⅷ", "e\u0301\u0302", "\u1100\u1161\u11a8", "👩🏾‍💻", "▁", "Ġ", "<s>", "</s>",
         "<x>", "<X>", "ab", "İ", "ΑΣ", "ﬁ", "<0x41>", "...", "--", "a_b", "\u0344", "\ufb1d", "ｱ\uff9e", "\U0001D160"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(0, 14)):
        kind = rng.random()
        if kind < .35:
            low, high = rng.choice(RANGES)
            out.append("".join(chr(c) for c in (rng.randint(low, high) for _ in range(rng.randint(1, 6))) if not 0xD800 <= c <= 0xDFFF))
        elif kind < .6:
            out.append(rng.choice(SPACES))
        elif kind < .8:
            out.append(rng.choice(WORDS))
        else:
            line = rng.choice(LINES)
            start = rng.randrange(len(line))
            out.append(line[start:start + rng.randint(1, 12)])
    return "".join(out)


def train(model, trainer, pre_tokenizer=None):
    tokenizer = Tokenizer(model)
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(LINES, trainer)
    return json.loads(tokenizer.to_str())["model"]


def trained_models():
    letters = pre_tokenizers.ByteLevel.alphabet()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain = train(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False), pre_tokenizers.Metaspace())
    fallback = json.loads(json.dumps(plain))
    for byte in range(256):
        fallback["vocab"].setdefault("<0x%02X>" % byte, len(fallback["vocab"]))
    fallback.update(byte_fallback=True, fuse_unk=True)
    words = train(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="##"),
                  trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", continuing_subword_prefix="##", special_tokens=["<unk>"], show_progress=False), pre_tokenizers.Whitespace())
    bytes_ = train(models.BPE(), trainers.BpeTrainer(vocab_size=500, initial_alphabet=letters, special_tokens=["<s>", "</s>"], show_progress=False), byte_level)
    whole = json.loads(json.dumps(bytes_))
    whole["ignore_merges"] = True
    few = json.loads(json.dumps(bytes_))
    few["vocab"] = {k: v for k, v in few["vocab"].items() if len(k) > 1 or k not in "ôõö÷øÀÁ"}
    few["merges"] = [m for m in few["merges"] if all(p in few["vocab"] for p in (m[0], m[1], m[0] + m[1]))]
    unigram = train(models.Unigram(), trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False), pre_tokenizers.Metaspace())
    pieces = train(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False), pre_tokenizers.BertPreTokenizer())
    levels = train(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False), pre_tokenizers.Whitespace())
    return {"plain": plain, "fallback": fallback, "words": words, "bytes": bytes_, "whole": whole, "few": few, "unigram": unigram,
            "pieces": pieces, "levels": levels}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LETTERS = {**GPT2, "use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KIMI = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
DEEPSEEK = {"type": "Sequence", "pretokenizers": [split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split(r"[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}, LETTERS]}
DEEPSEEK3 = {"type": "Sequence", "pretokenizers": [split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), LETTERS]}
FALCON = {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False}, split(r"[0-9][0-9][0-9]")]}


def then_letters(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps) + [LETTERS]}


def metaspace(scheme, split_=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split_}


SPM = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
NORMALIZERS = [None, {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Nmt"},
               {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
               {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}]},
               {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Replace", "pattern": {"Regex": "\\s+|\\d"}, "content": " "}]}]
BYTE_PRE = [GPT2, {**GPT2, "add_prefix_space": True}, LETTERS, DEEPSEEK, DEEPSEEK3, FALCON,
            then_letters({"type": "Digits", "individual_digits": True}), then_letters({"type": "Digits", "individual_digits": False}, split(r"(?<=a)b|\bx\b")),
            then_letters({"type": "UnicodeScripts"}), then_letters({"type": "Whitespace"}), then_letters({"type": "BertPreTokenizer"}),
            then_letters({"type": "CharDelimiterSplit", "delimiter": "a"}),
            then_letters({"type": "Punctuation", "behavior": "MergedWithPrevious"})] + \
           [then_letters(split(r)) for r in (LLAMA3, LLAMA3.replace("{1,3}", ""), LLAMA3.replace("{1,3}", "+"), O200K, KIMI, BLOOM, r"\w+|[^\w\s]+", r"[[:alpha:]]+|[[:punct:]]|\h",
                                             r"\p{Han}|\p{Hiragana}+|\p{^Lu}", r"[^\S\r\n]+|\d{2,}+", r"[\W&&\S]+|\p{Cyrillic}+")] + \
           [then_letters(split(r"\p{L}+", b, i)) for b in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous") for i in (False, True)]
SPM_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def added(content, start, **flags):
    return {"id": start, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


def added_tokens(rng, model):
    size, out = len(model["vocab"]), []
    for content in rng.sample(["<s>", "</s>", "<x>", "<X>", "ab", "the", "  ", "\n", "é", "ﬁ", "<|a|>", "dog", "12"], 5):
        flags = {k: rng.random() < .3 for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        # One that a normalizer strips to nothing would be found between any two bytes by the library.
        # Of two that a normalizer makes equal the library finds now the one, now the other.
        flags["normalized"] = flags["normalized"] and bool(content.strip()) and content != "<X>"
        out.append(added(content, size + len(out), **flags))
    return out


def made_tokenizers(rng):
    model = trained_models()
    for number, (normalizer, pre) in enumerate(itertools.chain(((n, GPT2) for n in NORMALIZERS), ((None, p) for p in BYTE_PRE), ((rng.choice(NORMALIZERS), rng.choice(BYTE_PRE)) for _ in range(30)))):
        yield "bytes%d" % number, normalizer, pre, model[("bytes", "whole", "few")[number % 3]], GPT2
    for name, (normalizer, pre) in itertools.product(("plain", "fallback"), ((SPM, None), (None, metaspace("always")), (None, metaspace("first")), (None, metaspace("first", False)), (None, metaspace("never")), ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}))):
        yield name, normalizer, pre, model[name], SPM_DECODER
    for normalizer in NORMALIZERS:
        yield "unigram", normalizer, metaspace(rng.choice(("always", "first", "never"))), model["unigram"], metaspace("always")
        yield "pieces", normalizer, {"type": "BertPreTokenizer"}, model["pieces"], {"type": "WordPiece", "prefix": "##", "cleanup": True}
        yield "levels", normalizer, {"type": "Whitespace"}, model["levels"], None
        yield "words", normalizer, {"type": "WhitespaceSplit"}, model["words"], {"type": "BPEDecoder", "suffix": "</w>"}


def write_made(folder, seed):
    rng = random.Random(seed)
    for number, (name, normalizer, pre, model, decoder) in enumerate(made_tokenizers(rng)):
        tokens = added_tokens(rng, model)
        post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
        where = os.path.join(folder, "%03d-%s" % (number, name))
        os.mkdir(where)
        with open(os.path.join(where, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre,
                       "post_processor": rng.choice((None, post)), "decoder": decoder, "model": model}, file)
        yield where


def their_answers(where, questions):
    """What the library says; None where it panics. Runs in a process of its own, because it sometimes never ends."""
    theirs = Tokenizer.from_file(os.path.join(where, "tokenizer.json"))
    out = []
    for question in questions:
        try:
            if "text" in question:
                out.append({"ids": theirs.encode(question["text"]).ids, "plain": theirs.encode(question["text"], add_special_tokens=False).ids})
            else:
                out.append({"text": theirs.decode(question["ids"], skip_special_tokens=False), "skipped": theirs.decode(question["ids"], skip_special_tokens=True)})
        except BaseException as problem:  # its panics are no Exceptions
            out.append(None if "Panic" in type(problem).__name__ else {"error": True})
    return out


def compare(dump, where, rng, count):
    with open(os.path.join(where, "tokenizer.json"), encoding="utf-8") as file:
        size = len(json.load(file)["model"]["vocab"]) + 8
    questions = [{"text": random_text(rng)} for _ in range(count)] + [{"ids": [rng.randrange(size) for _ in range(rng.randint(0, 12))]} for _ in range(count // 4)]
    with multiprocessing.Pool(1) as pool:
        try:
            theirs = pool.apply_async(their_answers, (where, questions)).get(timeout=20)
        except multiprocessing.TimeoutError:
            print("%s: the library did not come back" % where)
            return 0
        except Exception as problem:
            print("%s: the library refuses it: %s" % (where, problem))
            return 0
    lines = "".join(json.dumps(q) + "\n" for q in questions)
    ran = subprocess.run([dump, where], input=lines.encode(), stdout=subprocess.PIPE, check=True, timeout=60)
    bad = 0
    for question, answer, expected in zip(questions, map(json.loads, ran.stdout.decode().splitlines()), theirs):
        answer.pop("streamed", None)
        if "error" in answer and expected:
            same = "error" in expected
        else:
            same = expected is None or answer == expected
        if not same:
            bad += 1
            if bad <= 2:
                print("%s\n  in     %s\n  nibble %s\n  theirs %s" % (where, json.dumps(question), json.dumps(answer), json.dumps(expected)))
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dump")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--dir", action="append", default=[])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    bad = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        for where in arguments.dir or write_made(folder, arguments.seed):
            wrong = compare(arguments.dump, where, rng, arguments.texts)
            bad += wrong
            ran += 1
            if wrong:
                with open(os.path.join(where, "tokenizer.json"), encoding="utf-8") as file:
                    document = json.load(file)
                print("  %d differences under %s" % (wrong, json.dumps({k: document[k] for k in ("normalizer", "pre_tokenizer", "decoder", "added_tokens")})[:1500]))
    print("%d tokenizers, %d differences (tokenizers %s)" % (ran, bad, tokenizers.__version__))
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
