#!/usr/bin/env python3
"""A binding and a library that are not of one release: what is served, and that the refusal names both.

    versions_test.py MCS MONO CC BINDING_DIR CONTRACT MODEL_DIR LIBRARY

Bindings of other versions are Native.cs with other constants; libraries of other versions are small stand-ins with the
functions that the check asks, and nothing else.
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

MCS, MONO, CC, BINDING, CONTRACT, MODEL, LIBRARY = sys.argv[1:8]
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
STAND_IN = """
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
const char *nbl_version(void) { return "%(major)d.%(minor)d.0"; }
uint32_t nbl_abi_version(void) { return %(major)du << 16 | %(minor)d; }
int32_t nbl_abi_check(uint32_t against, void **err) { (void)err; return against >> 16 == %(major)d && (against & 0xffff) <= %(minor)d ? 0 : -20; }
int32_t nbl_build_info(char **out, size_t *length, void **err) {
  (void)err;
  if (!out) return -2;
  *out = strdup("{\\"api_hash\\": \\"%(hash)s\\"}");
  *length = strlen(*out);
  return 0;
}
void nbl_free(void *memory) { free(memory); }
void nbl_error_release(void *error) { (void)error; }
"""


def checked(*command):
    subprocess.run(command, check=True)


class Versions(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        with open(os.path.join(BINDING, "Native.cs"), encoding="utf-8") as file:
            self.native = file.read()
        self.hash = re.search(r'ApiHash = "(\w+)"', self.native)[1]

    def path(self, name, text=None):
        path = os.path.join(self.folder.name, name)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return path

    def ask(self, library, version=(1, 0), api_hash=None):
        """What a program says whose Nibble.dll was generated for `version` and finds `library`."""
        native = self.native.replace('Version = "1.0"', 'Version = "%d.%d"' % version)
        native = native.replace("AbiVersion = 65536", "AbiVersion = %d" % (version[0] << 16 | version[1]))
        native = native.replace(self.hash, api_hash or self.hash)
        sources = [self.path("Native.cs", native), os.path.join(BINDING, "Gen.cs"), os.path.join(BINDING, "Nibble.cs")]
        dll = self.path("Nibble.dll")
        checked(MCS, "-langversion:7.2", "-unsafe", "-target:library", "-out:" + dll, *sources)
        checked(MCS, "-r:" + dll, "-out:" + self.path("ask.exe"), self.path("ask.cs", PROGRAM))
        environment = dict(os.environ, LD_LIBRARY_PATH=library)
        result = subprocess.run((MONO, self.path("ask.exe")), env=environment, capture_output=True, encoding="utf-8", timeout=60)
        return result.returncode, result.stdout + result.stderr

    def stand_in(self, major, minor, api_hash):
        checked(CC, "-shared", "-fPIC", "-o", self.path("libnibble.so"), self.path("library.c", STAND_IN % {"major": major, "minor": minor, "hash": api_hash}))
        return self.folder.name

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

    def test_another_major_version_is_refused(self):
        self.refused(self.ask(self.real, (2, 0)), "nibble 2.0", "nibble 1.0.0")
        self.refused(self.ask(self.real, (0, 9)), "nibble 0.9", "nibble 1.0.0")
        self.refused(self.ask(self.stand_in(2, 0, "fedcba9876543210")), "nibble 1.0", "nibble 2.0.0", "fedcba9876543210")

    def test_the_same_version_with_another_api_is_refused(self):
        self.refused(self.ask(self.real, (1, 0), "0123456789abcdef"), "0123456789abcdef", self.hash)
        self.refused(self.ask(self.stand_in(1, 0, "fedcba9876543210")), "fedcba9876543210", self.hash)

    def test_an_older_binding_is_served_by_a_later_minor_version(self):
        self.assertEqual(self.ask(self.stand_in(1, 1, "fedcba9876543210")), (0, "served 65537\n"))

    def test_no_library_says_where_it_is_looked_for(self):
        code, text = self.ask("/nowhere")
        self.assertEqual(code, 2, text)
        self.assertIn("LD_LIBRARY_PATH", text)

    def contract(self, library):
        """The contract test beside the Nibble.dll of the folder, with a library."""
        program = self.path("contract.exe")
        checked(MCS, "-langversion:7.2", "-unsafe", "-r:" + self.path("Nibble.dll"), "-out:" + program, os.path.join(BINDING, "Native.cs"), CONTRACT)
        environment = dict(os.environ, LD_LIBRARY_PATH=library)
        return subprocess.run((MONO, program, MODEL), env=environment, capture_output=True, encoding="utf-8", timeout=60)

    def test_the_contract_test_notices_a_missing_function(self):
        self.ask(self.real)
        result = self.contract(self.stand_in(1, 0, self.hash))
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("nbl_error_", result.stdout)

    def test_the_contract_test_notices_another_constant(self):
        with open(os.path.join(BINDING, "Gen.cs"), encoding="utf-8") as file:
            changed = file.read().replace("TopK = 3001,", "TopK = 3002,").replace("Busy = -5,", "Busy = -6,")
        checked(MCS, "-langversion:7.2", "-unsafe", "-target:library", "-out:" + self.path("Nibble.dll"), os.path.join(BINDING, "Native.cs"),
                self.path("Gen.cs", changed), os.path.join(BINDING, "Nibble.cs"))
        result = self.contract(self.real)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("Option.TopK", result.stdout)
        self.assertIn("Status.Busy", result.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
