#!/usr/bin/env python3
"""A binding refuses a library that is not the one it was generated for, and tells both versions: the same test for every language

    version_test.py SOURCE_DIR GENERATE          the command line of the generate sample, which finds the library by LD_LIBRARY_PATH

The libraries are stubs (tests/support/stub_library.py) that answer as one of another version does.
"""
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import unittest

SOURCE, GENERATE = pathlib.Path(sys.argv[1]).resolve(), shlex.split(sys.argv[2])
sys.path.insert(0, str(SOURCE / "tests/support"))
import stub_library  # noqa: E402

SPEC = SOURCE / "bindings/spec/nibble.api.json"
DOCUMENT = json.loads(SPEC.read_text(encoding="utf-8"))
HASH, OTHER = DOCUMENT["api_hash"], "0123456789abcdef"
MAJOR, MINOR = DOCUMENT["promises"]["version"]
SERVED = "nothing is behind this"  # what a stub says once it has been accepted


class Version(unittest.TestCase):
    def said(self, version, api_hash):
        """What the sample says with a library of that version."""
        with tempfile.TemporaryDirectory() as folder:
            stub_library.build(SOURCE / "include/nibble.h", SPEC, folder, version=version, hash=api_hash)
            result = subprocess.run(GENERATE + ["DIR"], env=dict(os.environ, LD_LIBRARY_PATH=folder), capture_output=True, encoding="utf-8", timeout=60)
        self.assertEqual(result.returncode, 1, result.stderr)
        return result.stderr

    def test_the_same_and_a_later_minor_version_are_taken(self):
        self.assertIn(SERVED, self.said((MAJOR, MINOR), HASH))
        self.assertIn(SERVED, self.said((MAJOR, MINOR + 1), OTHER))

    def test_an_older_and_a_newer_major_version_are_refused(self):
        for version in ((MAJOR - 1, 9), (MAJOR + 1, 0)):
            message = self.said(version, OTHER)
            self.assertIn("%d.%d" % (MAJOR, MINOR), message)
            self.assertIn("%d.%d" % version, message)
            self.assertNotIn(SERVED, message)

    def test_the_same_version_with_another_interface_is_refused(self):
        message = self.said((MAJOR, MINOR), OTHER)
        for part in (HASH, OTHER, "%d.%d" % (MAJOR, MINOR)):
            self.assertIn(part, message)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
