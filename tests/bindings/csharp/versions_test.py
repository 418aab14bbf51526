#!/usr/bin/env python3
"""Bindings of other versions than the library's, and what the contract test notices.

    versions_test.py MCS MONO SOURCE_DIR LIBRARY

Libraries of other versions are version_test.py's matter, the same for every language. Here the binding is the other one:
Native.gen.cs with other constants, Nibble.gen.cs with other values, and a library that lacks a function.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

MCS, MONO, SOURCE, LIBRARY = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]).resolve(), sys.argv[4]
sys.path.insert(0, str(SOURCE / "tests/support"))
import stub_library  # noqa: E402

BINDING = SOURCE / "bindings/csharp"
CONTRACT = SOURCE / "tests/bindings/csharp/Contract.gen.cs"
MODEL = SOURCE / "samples/models/story-6m-awq"
PROGRAM = """
using System; using Nibble;
class Ask {
  static int Main() {
    try { Console.WriteLine("served " + Library.AbiVersion); return 0; }
    catch (NibbleException refused) { Console.WriteLine(refused.Status + ": " + refused.Message); return 1; }
    catch (DllNotFoundException missing) { Console.WriteLine(missing.Message); return 2; }
  }
}
"""


def checked(*command):
    subprocess.run(command, check=True, capture_output=True)


class Versions(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.native = (BINDING / "Native.gen.cs").read_text(encoding="utf-8")
        self.hash = re.search(r'ApiHash = "(\w+)"', self.native)[1]

    def path(self, name, text=None):
        path = os.path.join(self.folder.name, name)
        if text is not None:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        return path

    def binding(self, native=None, gen=None):
        """Nibble.dll in the folder, of other sources."""
        sources = [self.path("Native.gen.cs", native or self.native),
                   self.path("Nibble.gen.cs", gen or (BINDING / "Nibble.gen.cs").read_text(encoding="utf-8")),
                   str(BINDING / "Nibble.cs")]
        checked(MCS, "-langversion:7.2", "-unsafe", "-target:library", "-out:" + self.path("Nibble.dll"), *sources)

    def run_with(self, library, *command):
        environment = dict(os.environ, LD_LIBRARY_PATH=library)
        return subprocess.run((MONO,) + command, env=environment, cwd=self.folder.name, capture_output=True, encoding="utf-8", timeout=60)

    def ask(self, library, version=(1, 0), api_hash=None):
        """What a program says whose Nibble.dll was generated for `version` and finds the library in a folder."""
        native = self.native.replace('Version = "1.0"', 'Version = "%d.%d"' % version)
        native = native.replace("AbiVersion = 65536", "AbiVersion = %d" % (version[0] << 16 | version[1]))
        self.binding(native.replace(self.hash, api_hash or self.hash))
        checked(MCS, "-r:" + self.path("Nibble.dll"), "-out:" + self.path("ask.exe"), self.path("ask.cs", PROGRAM))
        result = self.run_with(library, self.path("ask.exe"))
        return result.returncode, result.stdout + result.stderr

    def contract(self, library):
        """The contract test beside the Nibble.dll of the folder."""
        program = self.path("contract.exe")
        checked(MCS, "-langversion:7.2", "-unsafe", "-nowarn:429", "-r:" + self.path("Nibble.dll"), "-out:" + program,
            str(BINDING / "Native.gen.cs"), str(CONTRACT))
        return self.run_with(library, program, str(MODEL))

    @property
    def real(self):
        return os.path.dirname(LIBRARY)

    def refused(self, answer, *parts):
        code, text = answer
        self.assertEqual(code, 1, text)
        self.assertIn("Abi: ", text)
        for part in parts:
            self.assertIn(part, text)

    def test_the_same_release_is_served(self):
        self.assertEqual(self.ask(self.real), (0, "served 65536\n"))

    def test_a_newer_binding_is_refused(self):
        self.refused(self.ask(self.real, (1, 1), "0123456789abcdef"), "nibble 1.1", "0123456789abcdef", "nibble 1.0.0", self.hash)

    def test_a_binding_of_another_major_version_is_refused(self):
        self.refused(self.ask(self.real, (2, 0)), "nibble 2.0", "nibble 1.0.0")
        self.refused(self.ask(self.real, (0, 9)), "nibble 0.9", "nibble 1.0.0")

    def test_the_same_version_with_another_api_is_refused(self):
        self.refused(self.ask(self.real, (1, 0), "0123456789abcdef"), "0123456789abcdef", self.hash)

    def test_no_library_says_where_it_is_looked_for(self):
        code, text = self.ask("/nowhere")
        self.assertEqual(code, 2, text)
        self.assertIn("LD_LIBRARY_PATH", text)

    def test_the_contract_test_notices_a_missing_function(self):
        self.binding()
        promises = json.loads((SOURCE / "bindings/spec/nibble.api.json").read_text(encoding="utf-8"))["promises"]
        del promises["functions"]["session_truncate"]
        stub_library.build(SOURCE / "include/nibble.h", promises, self.folder.name)
        result = self.contract(self.folder.name)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("nbl_session_truncate", result.stdout)

    def test_the_contract_test_notices_another_constant(self):
        gen = (BINDING / "Nibble.gen.cs").read_text(encoding="utf-8")
        self.binding(gen=gen.replace("TopK = 3001,", "TopK = 3002,").replace("Busy = -5,", "Busy = -6,"))
        result = self.contract(self.real)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("Option.TopK", result.stdout)
        self.assertIn("Status.Busy", result.stdout)

    def test_swapped_arguments_do_not_compile(self):
        right = "nbl_job_wait(IntPtr j, int timeout_ms, IntPtr* err)"
        self.assertIn(right, self.native)
        with self.assertRaises(subprocess.CalledProcessError):
            self.binding(native=self.native.replace(right, "nbl_job_wait(int timeout_ms, IntPtr j, IntPtr* err)"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
