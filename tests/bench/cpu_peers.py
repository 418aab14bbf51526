#!/usr/bin/env python3
"""Measures nibble and llama.cpp interleaved; run it by tests/bench/cpu_peers, which sees to the peer.

Every round runs nibble and each setting of the peer once, in turn, each in a process of its own: load, warm up, then prefill
a prompt and decode behind it, `--repeats` times. Figures are medians over the rounds; a ratio is the median of the rounds'
own ratios to the peer's best setting of that round, because the machine's memory may be slower a minute later.

A row is printed as soon as it is there. Cut short (Ctrl-C, SIGTERM), the last one is of the rounds that were complete, and
says how many.
"""
import argparse
import ctypes
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import synthetic_gguf

NIBBLE_FORMATS = {"smollm2-135m": "awq-g64"}  # 128 does not divide its 576 columns
MIXES = ("Q4_0", "Q4_K_M")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# ---- the peer, in a process of its own

def measure_llama(path, flash_attention, threads, prompts, decode, repeats):
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(prompts) + decode + 64, 2048, 512
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = (llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention
                              else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp refuses %s" % path)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def run(ids):
        array = (llama_cpp.llama_token * len(ids))(*ids)
        start = time.perf_counter()
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))) != 0:
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(context)
        return time.perf_counter() - start

    rows = []
    for length in prompts:
        prompt = [(index * 7919 + 17) % vocabulary for index in range(length)]
        prefill, decoding = [], []
        for repeat in range(repeats + 1):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            prefill_seconds = run(prompt)
            decode_seconds = sum(run([(index * 104729 + 3) % vocabulary]) for index in range(decode))
            if repeat > 0:  # the first one warms up
                prefill.append(length / prefill_seconds)
                decoding.append(decode / decode_seconds)
        rows.append({"prompt": length, "prefill": statistics.median(prefill), "decode": statistics.median(decoding)})
    print(json.dumps(rows))


def run_llama(path, flash_attention, threads, args):
    command = [sys.executable, os.path.abspath(__file__), "--peer", path, "--flash-attention", str(int(flash_attention)),
               "--threads", str(threads), "--prompts", args.prompts, "--decode", str(args.decode),
               "--repeats", str(args.repeats)]
    return {row["prompt"]: row for row in json.loads(subprocess.check_output(command))}


# ---- nibble, by its command line

def run_nibble(shape, threads, args):
    command = [args.nibble, "bench", "--device", "cpu", "--shape", shape, "--format", NIBBLE_FORMATS.get(shape, "awq-g128"), "--prompt",
               args.prompts, "--decode", str(args.decode), "--repeats", str(args.repeats), "--threads", str(threads),
               "--json"]
    if args.precision:
        command += ["--precision", args.precision]
    result = json.loads(subprocess.check_output(command))[0]
    rows = {}
    for row in result["rows"]:
        rows[row["prompt_tokens"]] = {"prefill": row["prefill_tokens_per_second"], "decode": row["decode_tokens_per_second"],
                                      "share": row["bandwidth_share"]}
    return rows, result["read_bandwidth_bytes_per_second"], result["description"]


# ---- rounds and table

def measure(shape, threads, args):
    """Gives one record for each round, when it is complete."""
    settings = [(mix, flash) for mix in MIXES for flash in (False, True)]
    files = {mix: gguf_file(shape, mix) for mix in MIXES}
    for number in range(args.rounds):
        if sys.stderr.isatty():
            print("\r\033[K%s, %d threads, round %d of %d" % (shape, threads, number + 1, args.rounds), end="", file=sys.stderr)
        record = {"peers": {}}
        turns = ["nibble"] + settings
        for turn in turns if number % 2 == 0 else reversed(turns):
            if turn == "nibble":
                record["nibble"], record["bandwidth"], record["description"] = run_nibble(shape, threads, args)
            else:
                record["peers"][turn] = run_llama(files[turn[0]], turn[1], threads, args)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        yield record


def gguf_file(shape, mix):
    folder = os.path.join(ROOT, ".cache", "peers")
    path = os.path.join(folder, "%s-%s.gguf" % (shape, mix))
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        synthetic_gguf.write(path + ".part", shape, mix)
        os.rename(path + ".part", path)
    return path


def median(rounds, pick):
    return statistics.median(pick(record) for record in rounds)


def figures(shape, threads, rounds, prompts):
    """One dictionary for each prompt length: nibble, the peer's settings, ratios."""
    out = []
    for length in prompts:
        row = {"shape": shape, "threads": threads, "prompt": length, "rounds": len(rounds), "bandwidth": median(rounds, lambda r: r["bandwidth"]),
               "share": median(rounds, lambda r: r["nibble"][length]["share"])}
        for what in ("prefill", "decode"):
            row["nibble " + what] = median(rounds, lambda r: r["nibble"][length][what])
            row["peers " + what] = {"%s%s" % (mix, " fa" if flash else ""): median(rounds, lambda r: r["peers"][mix, flash][length][what])
                                    for mix, flash in rounds[0]["peers"]}
            row["ratio " + what] = median(rounds, lambda r: r["nibble"][length][what] /
                                          max(peer[length][what] for peer in r["peers"].values()))
        out.append(row)
    return out


def print_head(description, args):
    import llama_cpp

    print("nibble (%s) beside llama.cpp (llama-cpp-python %s), medians of interleaved rounds, decode %d tokens behind the prompt"
          % (description.split(",")[0], llama_cpp.__version__, args.decode))
    print("%-15s %3s %6s %6s %9s | %9s %9s %-9s %6s | %9s %9s %-9s %6s %6s" % (
        "shape", "thr", "prompt", "rounds", "read GB/s", "prefill/s", "llama.cpp", "its best", "ratio", "decode/s", "llama.cpp",
        "its best", "ratio", "share"), flush=True)


def print_row(row):
    best = {what: max(row["peers " + what].items(), key=lambda item: item[1]) for what in ("prefill", "decode")}
    print("%-15s %3d %6d %6d %9.1f | %9.1f %9.1f %-9s %5.2fx | %9.1f %9.1f %-9s %5.2fx %5.0f%%" % (
        row["shape"], row["threads"], row["prompt"], row["rounds"], row["bandwidth"] * 1e-9, row["nibble prefill"],
        best["prefill"][1], best["prefill"][0], row["ratio prefill"], row["nibble decode"], best["decode"][1], best["decode"][0],
        row["ratio decode"], row["share"] * 100), flush=True)


def find_nibble():
    for build in ("release", "quickstart"):
        path = os.path.join(ROOT, "build", build, "samples", "nibble")
        if os.path.exists(path):
            return path
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="qwen2.5-0.5b,tinyllama-1.1b", help="of " + ", ".join(synthetic_gguf.SHAPES))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", help="nibble's cpu precision; the default is the library's")
    parser.add_argument("--nibble", default=find_nibble(), help="the command to measure; default: build/release, then build/quickstart")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--flash-attention", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    prompts = [int(length) for length in args.prompts.split(",")]
    if args.peer:
        measure_llama(args.peer, bool(args.flash_attention), int(args.threads), prompts, args.decode, args.repeats)
        return
    if not args.nibble:
        sys.exit("cpu_peers: build nibble first (samples/quickstart does), or name it with --nibble")
    rows = []

    def end_rows(shape, threads, rounds):
        if not rounds:
            return
        if not rows:
            print_head(rounds[0]["description"], args)
        for row in figures(shape, threads, rounds, prompts):
            rows.append(row)
            print_row(row)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as out:
                json.dump(rows, out, indent=1)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for shape in args.shapes.split(","):
        for threads in map(int, args.threads.split(",")):
            rounds = []
            try:
                for record in measure(shape, threads, args):
                    rounds.append(record)
            except KeyboardInterrupt:
                end_rows(shape, threads, rounds)
                sys.exit("cpu_peers: cut short")
            end_rows(shape, threads, rounds)


if __name__ == "__main__":
    main()
