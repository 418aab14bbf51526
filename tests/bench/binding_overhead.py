#!/usr/bin/env python3
"""What a token costs in each language beside computing it, in turns, medians of the rounds: binding_overhead.py BUILD_DIR [ROUNDS]

    cmake --preset release -DNIBBLE_BUILD_BENCHMARKS=ON && cmake --build --preset release
    tests/bench/binding_overhead.py build/release

Each program computes with a batch and times only the taking of what waits: the call, and the text in the language's own type.
"""
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 7
MODEL = str(ROOT / "samples/models/story-6m-awq")
BINDINGS = BUILD / "tests/bindings"
PROGRAMS = {
    "c": ([], BUILD / "tests/bench/binding_overhead"),
    "go": ([], BINDINGS / "go/samples/overhead"),
    "rust": ([], BINDINGS / "rust/target/release/examples/overhead"),
    "csharp": (["mono"], BUILD / "bindings/csharp/bench.exe"),
}


def main():
    costs, environment = {}, dict(os.environ, LD_LIBRARY_PATH=str(BUILD))
    for language, (runner, program) in PROGRAMS.items():
        if not program.exists() or any(not shutil.which(name) for name in runner):
            print("%-7s not built: %s" % (language, program))
        else:
            costs[language] = []
    for _ in range(ROUNDS):
        for language in costs:
            runner, program = PROGRAMS[language]
            output = subprocess.run(runner + [str(program), MODEL], env=environment, check=True, capture_output=True, encoding="utf-8").stdout
            costs[language].append(int(re.search(r"(\d+) ns/token", output)[1]))
    base = statistics.median(costs["c"])
    print("%-7s %10s %10s %12s" % ("", "ns/token", "best", "over C"))
    for language, numbers in costs.items():
        print("%-7s %10.0f %10d %12.0f" % (language, statistics.median(numbers), min(numbers), statistics.median(numbers) - base))


if __name__ == "__main__":
    main()
