#!/usr/bin/env python3
"""Each check of the interface fails when it should: drift_test.py SOURCE_DIR

The checks are given a header, a library or a spec with a function removed, an argument swapped, a constant changed.
"""
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv[1]).resolve()
CHECKS = SOURCE / "tests/repository"
sys.path[:0] = [str(SOURCE / "bindings"), str(SOURCE / "tests/support"), str(CHECKS)]
import abi_test  # noqa: E402
import stub_library  # noqa: E402
from generator import spec as spec_reader  # noqa: E402
from wrong_headers import changed, wrong_headers  # noqa: E402

HEADER = (SOURCE / "include/nibble.h").read_text(encoding="utf-8")
HEADERS = wrong_headers(HEADER)
SPEC = SOURCE / "bindings/spec/nibble.api.json"


def passes(*command, folder=None):
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True).returncode == 0


class Folder(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        self.addCleanup(self.temporary.cleanup)

    def header(self, text):
        path = self.folder / "nibble.h"
        path.write_text(text, encoding="utf-8")
        return path


class Regenerate(Folder):
    def test_notices_a_file_changed_by_hand_and_a_spec_changed_alone(self):
        shutil.copytree(SOURCE / "bindings/generator", self.folder / "bindings/generator", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(SOURCE / "bindings/generate.py", self.folder / "bindings")
        shutil.copytree(SOURCE / "bindings/spec", self.folder / "bindings/spec")
        generate = [sys.executable, self.folder / "bindings/generate.py"]
        self.assertFalse(passes(*generate, "--check"))  # nothing is there yet
        self.assertTrue(passes(*generate))
        self.assertTrue(passes(*generate, "--check"))
        header = self.folder / "include/nibble.h"
        for text in HEADERS.values():
            header.write_text(text, encoding="utf-8")
            self.assertFalse(passes(*generate, "--check"))
        header.write_text(HEADER, encoding="utf-8")
        self.assertTrue(passes(*generate, "--check"))
        spec = self.folder / "bindings/spec/nibble.toml"
        text = spec.read_text(encoding="utf-8")
        for old, new in (('args = ["session s", "i64 count"]', 'args = ["session s", "i32 count"]'), ("value = 2000\n", "value = 2009\n")):
            spec.write_text(changed(text, old, new), encoding="utf-8")
            self.assertFalse(passes(*generate, "--check"))
            self.assertFalse(passes(*generate, "--compat", self.folder / "bindings/spec/released/1.0.json"))


class Compiler(Folder):
    def test_the_static_asserts_notice(self):
        compiler = next(filter(shutil.which, ("g++", "clang++", "c++")))
        command = [compiler, "-std=c++17", "-fsyntax-only", "-I", self.folder, SOURCE / "tests/api/types_test.gen.cc"]
        self.header(HEADER)
        self.assertTrue(passes(*command))
        for what, text in HEADERS.items():
            self.header(text)
            self.assertFalse(passes(*command), what)

    def test_the_syntax_tree_notices(self):
        if not shutil.which("clang"):
            self.skipTest("no clang")
        for what, text in dict(HEADERS, right=HEADER, added=changed(HEADER, "\n#ifdef __cplusplus\n}", "NBL_API void nbl_more(void);\n#ifdef __cplusplus\n}")).items():
            with self.subTest(what):
                self.assertEqual(passes(sys.executable, CHECKS / "header_ast.py", self.header(text), SPEC), what == "right")


class Linker(Folder):
    def promises(self):
        return json.loads(SPEC.read_text(encoding="utf-8"))["promises"]

    def library(self, promises, header=HEADER):
        return stub_library.build(self.header(header), promises, self.folder, map_file=SOURCE / "src/api/nibble.map")

    def test_the_list_of_symbols_notices(self):
        command = [sys.executable, CHECKS / "exports.py", self.folder / "libnibble.so", SPEC]
        self.library(self.promises())
        self.assertTrue(passes(*command))
        fewer = self.promises()
        del fewer["functions"]["session_truncate"]
        self.library(fewer)
        self.assertFalse(passes(*command))
        stub_library.build(self.header(HEADER + "NBL_API void nbl_more(void);\n"), dict(self.promises(), functions=dict(
            self.promises()["functions"], more={"returns": "void", "params": []})), self.folder)
        self.assertFalse(passes(*command))

    def test_abidiff_notices(self):
        if not shutil.which("abidiff") or platform.machine() != "x86_64":
            self.skipTest("no abidiff")
        released = SOURCE / "bindings/spec/released/1.0.abi"
        self.assertEqual(abi_test.differences(released, self.library(self.promises())), "")
        fewer = self.promises()
        del fewer["functions"]["session_truncate"]
        self.assertIn("nbl_session_truncate", abi_test.differences(released, self.library(fewer)))
        swapped = self.promises()
        params = swapped["functions"]["session_truncate"]["params"]
        params[0], params[1] = params[1], params[0]
        self.assertIn("nbl_session_truncate", abi_test.differences(released, self.library(swapped, HEADERS["an argument swapped"])))
        # Names stay and what is behind them changes: only who looks at the compiled code can see that.
        wider = changed(HEADER, "typedef int32_t nbl_token;", "typedef int64_t nbl_token;")
        self.assertIn("nbl_token", abi_test.differences(released, self.library(self.promises(), wider)))


class ApiHash(unittest.TestCase):
    def test_is_another_for_another_interface_and_the_same_for_another_documentation(self):
        text = (SOURCE / "bindings/spec/nibble.toml").read_text(encoding="utf-8")

        def hash_of(text):
            with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                return spec_reader.load(pathlib.Path(file.name)).hash

        right = hash_of(text)
        self.assertIn(right, HEADER)
        for old, new in (('args = ["session s", "i64 count"]', 'args = ["session s", "i32 count"]'), ("value = 2000\n", "value = 2009\n"),
                         ('name = "session_truncate"', 'name = "session_cut"')):
            self.assertNotEqual(hash_of(changed(text, old, new)), right)
        self.assertEqual(hash_of(changed(text, '0 empties the session."', 'Zero empties it."')), right)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
