#!/usr/bin/env python3
"""What the library's own objects may not refer to, and what objects with instruction-set flags may not define.

A weak symbol in an object that was compiled for AVX-512 may be the copy that the linker keeps for generic callers: an
illegal instruction on older processors, in a file nobody suspects.
"""
import pathlib
import re
import subprocess
import sys

FORBIDDEN = {"abort", "exit", "_exit", "_Exit", "quick_exit", "__assert_fail", "printf", "puts", "putchar", "perror", "__printf_chk",
             "getenv", "secure_getenv", "setlocale", "signal", "longjmp", "system"}
ISA_OBJECT = re.compile(r"kernels/cpu/.*(avx|neon|amx)[^/]*\.o$")


def main(build):
    problems = []
    objects = [p for folder in ("src", "kernels") for p in (build / folder).glob("**/*.o")]
    for path in sorted(objects):
        listing = subprocess.run(["nm", str(path)], capture_output=True, text=True).stdout
        for line in listing.splitlines():
            *_, kind, name = line.split()
            if kind == "U" and name in FORBIDDEN:
                problems.append("%s calls %s" % (path.relative_to(build), name))
            if kind in "WVwv" and ISA_OBJECT.search(path.as_posix()) and kind in "WV":
                problems.append("%s defines the weak symbol %s" % (path.relative_to(build), name))
    print("\n".join(problems) or "%d objects are clean" % len(objects))
    return 1 if problems or not objects else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
