#!/usr/bin/env python3
"""The package has what NuGet expects where it expects it, and a program made of it alone runs.

    package_test.py MCS MONO SOURCE_DIR BUILD_DIR
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile
from xml.etree import ElementTree

MCS, MONO, SOURCE, BUILD = sys.argv[1:5]
BINDING = os.path.join(SOURCE, "bindings", "csharp")
STORY = os.path.join(SOURCE, "samples", "models", "story-6m-awq")


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        pack = [sys.executable, os.path.join(BINDING, "pack.py"), BUILD, "--out", cls.folder.name]
        cls.said = subprocess.run(pack, check=True, capture_output=True, encoding="utf-8").stdout
        cls.archive = zipfile.ZipFile(re.search(r"wrote (.*)", cls.said)[1])
        cls.addClassCleanup(cls.archive.close)

    def test_has_every_part_in_its_place(self):
        self.assertEqual(sorted(self.archive.namelist()), sorted([
            "Nibble.nuspec", "[Content_Types].xml", "_rels/.rels", "lib/netstandard2.0/Nibble.dll", "lib/netstandard2.0/Nibble.xml",
            "runtimes/linux-x64/native/libnibble.so", "README.md", "LICENSE"]))
        for name in ("Nibble.nuspec", "[Content_Types].xml", "_rels/.rels", "lib/netstandard2.0/Nibble.xml"):
            ElementTree.fromstring(self.archive.read(name))

    def test_is_of_the_version_of_the_api(self):
        with open(os.path.join(SOURCE, "bindings", "spec", "nibble.api.json"), encoding="utf-8") as file:
            version = json.load(file)["version"]
        self.assertIn("<version>%s</version>" % version, self.archive.read("Nibble.nuspec").decode())

    def run_alone(self, source):
        """What a program of one source says, laid out as NuGet does: the assembly and the native library beside it."""
        place = tempfile.mkdtemp(dir=self.folder.name)
        for name in ("lib/netstandard2.0/Nibble.dll", "runtimes/linux-x64/native/libnibble.so"):
            with open(os.path.join(place, os.path.basename(name)), "wb") as file:
                file.write(self.archive.read(name))
        program = os.path.join(place, "program.exe")
        subprocess.run([MCS, "-r:" + os.path.join(place, "Nibble.dll"), "-out:" + program, source], check=True)
        environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
        result = subprocess.run([MONO, program, STORY], env=environment, cwd="/", capture_output=True, encoding="utf-8", timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_a_program_made_of_it_alone_runs(self):
        self.assertTrue(self.run_alone(os.path.join(BINDING, "samples", "Generate.cs")).startswith("Once upon a time, "))

    def test_the_program_of_the_readme_runs(self):
        program = re.search(r"```csharp\n(using System;.*?)```", self.archive.read("README.md").decode(), re.S)[1]
        source = os.path.join(self.folder.name, "readme.cs")
        with open(source, "w", encoding="utf-8") as file:
            file.write(program)
        self.assertGreater(len(self.run_alone(source).split()), 20)


class Documentation(unittest.TestCase):
    """What Nibble.xml and the sources say of the public surface."""

    def members(self, name, ends):
        """What a file declares in public classes, by how a declaration goes on: methods and constructors, or properties."""
        with open(os.path.join(BINDING, name), encoding="utf-8") as file:
            text = file.read()
        classes = re.findall(r"^ {4}public [^\n]*?(?:class|struct) [^\n]*\n {4}\{\n(.*?)^ {4}\}$", text, re.M | re.S)
        return sum(len(re.findall(r"^ {8}public (?!const)[^=;{(]*?%s" % ends, body, re.M)) for body in classes)

    def test_nine_of_ten_public_methods_are_generated(self):
        for what, ends in (("methods", r"\("), ("properties", r"(?:\{|$)")):
            generated, written = self.members("Nibble.gen.cs", ends), self.members("Nibble.cs", ends)
            print("%d public %s, %d of them written by hand: %.1f %% generated" % (generated + written, what, written,
                100 * generated / (generated + written)))
            self.assertGreaterEqual(generated / (generated + written), 0.9)

    def test_everything_public_is_documented(self):
        with open(os.path.join(BUILD, "bindings", "csharp", "Nibble.xml"), encoding="utf-8") as file:
            members = ElementTree.parse(file).getroot().findall("members/member")
        self.assertGreater(len(members), 300)
        for member in members:
            self.assertTrue((member.findtext("summary") or "").strip(), member.get("name"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
