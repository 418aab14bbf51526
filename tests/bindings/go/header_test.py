#!/usr/bin/env python3
"""The package does not compile against a header that is not the one it was generated with: header_test.py SOURCE_DIR GO"""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE, GO = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(SOURCE / "tests/support"))
from wrong_headers import wrong_headers  # noqa: E402


class Header(unittest.TestCase):
    def compiles(self, text):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "nibble.h").write_text(text, encoding="utf-8")
            result = subprocess.run([GO, "build", "."], cwd=SOURCE / "bindings/go", env=dict(os.environ, CGO_CFLAGS="-I" + folder),
                                    capture_output=True, encoding="utf-8")
        return result.returncode == 0, result.stderr

    def test_only_the_right_one_compiles(self):
        right = (SOURCE / "include/nibble.h").read_text(encoding="utf-8")
        self.assertEqual(self.compiles(right), (True, ""))
        for what, text in wrong_headers(right).items():
            with self.subTest(what):
                self.assertFalse(self.compiles(text)[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
