#!/usr/bin/env python3
"""Includes run downward only. Prints each line that breaks the table."""
import pathlib
import re
import sys

# folder -> folders of src/ that it may include; kernels/ is named where a folder may include its contract.
ALLOWED = {
    "src/base": {"base"},
    "src/checkpoint": {"base", "checkpoint"},
    "src/quant": {"base", "checkpoint", "quant"},
    "src/text": {"base", "text"},
    "src/model": {"base", "checkpoint", "quant", "model", "kernels"},
    "src/engine": {"base", "checkpoint", "quant", "text", "model", "engine", "kernels"},
    "src/api": {"base", "checkpoint", "quant", "text", "model", "engine", "kernels", "api"},
}
# The plain data that kernels/ may see of src/, and the threads of load time.
PLAIN = {"base/dtype.h", "base/parallel.h", "base/status.h", "quant/quant_weight.h", "model/decoder.h"}
CONTRACT = {"kernels/backend.h"}


def main(root):
    problems = 0
    for path in sorted(list(root.glob("src/**/*")) + list(root.glob("kernels/**/*"))):
        if path.suffix not in (".h", ".cc", ".cu", ".cuh", ".inl"):
            continue
        name = path.relative_to(root).as_posix()
        folder = "/".join(name.split("/")[:2])
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match or "/" not in match.group(1):
                continue
            included = match.group(1)
            top = included.split("/")[0]
            if name.startswith("kernels/"):
                fine = top == "kernels" or included in PLAIN
                if top == "kernels" and folder != "kernels" and included.count("/") == 2:
                    own = "kernels/" + name.split("/")[1] + "/"
                    fine = included.startswith(own) or len(name.split("/")) == 2
            else:
                fine = top in ALLOWED[folder] and (top != "kernels" or included in CONTRACT)
            if not fine:
                problems += 1
                print("%s:%d includes %s, which is not below it" % (name, number, included))
    return problems


if __name__ == "__main__":
    sys.exit(1 if main(pathlib.Path(sys.argv[1])) else 0)
