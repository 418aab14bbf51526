#!/usr/bin/env python3
"""An installed nibble serves a program of one's own: install_test.py BUILD_DIR SOURCE_DIR CMAKE.

Installs into a temporary prefix, then builds samples/generate.c there by pkg-config, and by find_package, and runs both.
"""
import glob
import os
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE, CMAKE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
STORY = os.path.join(SOURCE, "samples", "models", "story-6m-awq")
GENERATE = os.path.join(SOURCE, "samples", "generate.c")

PROJECT = """cmake_minimum_required(VERSION 3.25)
project(app C)
find_package(nibble 1.0 REQUIRED)
add_executable(app "%s")
target_link_libraries(app PRIVATE nibble::nibble)
""" % GENERATE


def run(*command, **environment):
    result = subprocess.run(command, env=dict(os.environ, **environment), capture_output=True, encoding="utf-8", timeout=300)
    if result.returncode != 0:
        raise AssertionError("%s failed:\n%s%s" % (" ".join(command), result.stdout, result.stderr))
    return result.stdout


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.prefix = os.path.join(cls.folder.name, "prefix")
        run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)
        cls.pkgconfig, = {os.path.dirname(path) for path in glob.glob(cls.prefix + "/**/nibble.pc", recursive=True)}
        cls.libraries, = {os.path.dirname(path) for path in glob.glob(cls.prefix + "/**/libnibble.so", recursive=True)}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def assert_writes_text(self, program):
        text = run(program, STORY, "Once upon a time", LD_LIBRARY_PATH=self.libraries)
        self.assertGreater(len(text.split()), 10)

    def test_by_pkg_config(self):
        flags = run("pkg-config", "--cflags", "--libs", "nibble", PKG_CONFIG_PATH=self.pkgconfig).split()
        program = os.path.join(self.folder.name, "generate")
        run("cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", GENERATE, "-o", program, *flags)
        self.assert_writes_text(program)

    def test_by_find_package(self):
        source = os.path.join(self.folder.name, "app")
        os.mkdir(source)
        with open(os.path.join(source, "CMakeLists.txt"), "w", encoding="utf-8") as file:
            file.write(PROJECT)
        run(CMAKE, "-G", "Ninja", "-S", source, "-B", source + "/build", "-DCMAKE_PREFIX_PATH=" + self.prefix)
        run(CMAKE, "--build", source + "/build")
        self.assert_writes_text(source + "/build/app")

    def test_the_command_finds_its_library(self):
        command = os.path.join(self.prefix, "bin", "nibble")
        self.assertIn("nibble 1.", run(command, "--version"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
