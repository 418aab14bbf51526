#!/usr/bin/env python3
"""Writes everything that follows from bindings/spec/nibble.toml. Python 3.11, standard library only.

    python3 bindings/generate.py                 write all outputs
    python3 bindings/generate.py --check         fail with the difference if an output is not up to date
    python3 bindings/generate.py --compat FILE   fail if the spec takes back what FILE (a released nibble.api.json) promised
"""
import argparse
import difflib
import importlib
import pathlib
import pkgutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import generator  # noqa: E402
from generator import compat, spec  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def outputs(api):
    """All outputs: path below the repository -> text. Every module of generator/ with an outputs() adds its own."""
    files = {}
    for module in sorted(pkgutil.iter_modules(generator.__path__), key=lambda m: m.name):
        writer = importlib.import_module("generator." + module.name)
        if hasattr(writer, "outputs"):
            files.update(writer.outputs(api))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--compat", metavar="FILE")
    parser.add_argument("--spec", default=ROOT / "bindings/spec/nibble.toml", type=pathlib.Path)
    args = parser.parse_args()
    api = spec.load(args.spec)
    if args.compat:
        problems = compat.compare(pathlib.Path(args.compat), api)
        for problem in problems:
            print(problem)
        sys.exit(1 if problems else 0)
    stale = 0
    for name, text in outputs(api).items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old == text:
            continue
        stale += 1
        if args.check:
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), name, name + " (generated)"))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print("wrote", name)
    if args.check and stale:
        sys.exit("%d generated files are not up to date: run python3 bindings/generate.py" % stale)


if __name__ == "__main__":
    main()
