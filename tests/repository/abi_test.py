#!/usr/bin/env python3
"""The linker's view of what was released: abidiff finds nothing but additions since then.

    abi_test.py SOURCE_DIR [RELEASED.abi]     compares with bindings/spec/released/1.0.abi
    abi_test.py --write SOURCE_DIR FILE       what a release does: stores its interface

The interface is that of a library made of the header's prototypes (tests/support/stub_library.py), as the compiler laid it out.
The real library's entry points are compiled against the same prototypes, and repository.exports compares its symbols.
"""
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import stub_library  # noqa: E402

# abidiff's exit status: 1 error, 2 usage, 4 something changed, 8 it is incompatible.


def interface(source, folder):
    return stub_library.build(source / "include/nibble.h", source / "bindings/spec/nibble.api.json", folder, map_file=source / "src/api/nibble.map")


def differences(released, library):
    """What abidiff says besides additions; "" for nothing."""
    result = subprocess.run(["abidiff", "--no-added-syms", str(released), str(library)], capture_output=True, encoding="utf-8")
    return result.stdout + result.stderr if result.returncode else ""


def write(source, path):
    with tempfile.TemporaryDirectory() as folder:
        command = ["abidw", "--no-corpus-path", "--no-show-locs", "--no-comp-dir-path", "--no-elf-needed", "--type-id-style", "hash",
                   str(interface(source, folder))]
        text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    path.write_text(re.sub(r" path='[^']*'", " path='stub.c'", text), encoding="utf-8")


def main(arguments):
    if not shutil.which("abidiff") or not shutil.which("abidw"):
        print("SKIPPED: no abidiff here (Debian, Ubuntu: abigail-tools)")
        return 0
    if arguments[0] == "--write":
        write(pathlib.Path(arguments[1]).resolve(), pathlib.Path(arguments[2]))
        return 0
    source = pathlib.Path(arguments[0]).resolve()
    released = pathlib.Path(arguments[1]) if len(arguments) > 1 else source / "bindings/spec/released/1.0.abi"
    if platform.machine() != "x86_64":
        print("SKIPPED: %s is of x86_64" % released.name)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = differences(released, interface(source, folder))
    print(found or "nothing but additions since %s" % released.name)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
