#!/usr/bin/env python3
"""The append-only check notices what it is there for: a removed function, a swapped argument, a changed constant."""
import copy
import json
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings"))
from generator import compat, spec  # noqa: E402


def problems_after(change):
    """What compare() says when the released promises differ from the spec by `change`."""
    api = spec.load(ROOT / "bindings/spec/nibble.toml")
    released = {"promises": copy.deepcopy(spec.promises(api))}
    change(released["promises"])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(released, file)
        file.flush()
        return compat.compare(pathlib.Path(file.name), api)


def main():
    def removed(p):
        p["functions"]["model_paint"] = {"returns": "nbl_status", "params": [], "since": "1.0"}

    def swapped(p):
        params = p["functions"]["session_begin"]["params"]
        params[0], params[1] = params[1], params[0]

    def constant(p):
        p["statuses"]["E_BUSY"] = -6

    def option(p):
        p["options"]["CONTEXT"]["type"] = "f64"

    failures = 0
    if problems_after(lambda p: None):
        failures += 1
        print("an unchanged spec is refused")
    for change in (removed, swapped, constant, option):
        if len(problems_after(change)) != 1:
            failures += 1
            print("not noticed:", change.__name__)
    print("%d failures" % failures)
    return failures


if __name__ == "__main__":
    sys.exit(main())
