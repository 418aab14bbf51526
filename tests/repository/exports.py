#!/usr/bin/env python3
"""The linker's view: the library exports exactly the spec's functions, and needs nothing but what every system has."""
import json
import re
import subprocess
import sys

NEEDED = re.compile(r"lib(sentencepiece|stdc\+\+|m|gcc_s|c|dl|pthread|rt|pcre2-8|utf8proc)\.so|ld-linux")


def main(library, spec):
    wanted = {"nbl_" + name for name in json.load(open(spec))["promises"]["functions"]}
    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    found = {line.split()[-1].split("@")[0] for line in listing.splitlines() if " A " not in line}
    problems = ["exported but not in the spec: " + name for name in sorted(found - wanted)]
    problems += ["in the spec but not exported: " + name for name in sorted(wanted - found)]
    dynamic = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    problems += ["needs " + name for name in re.findall(r"NEEDED.*\[(.*)\]", dynamic) if not NEEDED.match(name)]
    if "libnibble.so.1" not in dynamic:
        problems.append("has no SONAME libnibble.so.1")
    print("\n".join(problems) or "%d functions exported, as specified" % len(found))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
