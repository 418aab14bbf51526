#!/usr/bin/env python3
"""A program of one's own, outside the repository, on an installed nibble: install_test.py BUILD SOURCE CMAKE CARGO

It follows the README of bindings/rust: pkg-config; NIBBLE_DIR and a build.rs; neither; and the crate as cargo packs it.
"""
import glob
import os
import shutil
import subprocess
import sys

build, source, cmake, cargo = sys.argv[1:5]
crate = os.path.join(source, "bindings", "rust")
model = os.path.join(source, "samples", "models", "story-6m-awq")
folder = os.path.join(build, "tests", "bindings", "rust", "installed")
prefix, app = os.path.join(folder, "prefix"), os.path.join(folder, "app")


def run(*command, fails=False, where=folder, **environment):
    settings = {name: value for name, value in os.environ.items() if name not in ("NIBBLE_DIR", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH")}
    settings.update(environment, CARGO_NET_OFFLINE="true", CARGO_TARGET_DIR=os.path.join(folder, "target"))
    result = subprocess.run(command, cwd=where, env=settings, capture_output=True, encoding="utf-8", timeout=280)
    if (result.returncode != 0) != fails:
        sys.exit("%s:\n%s%s" % (" ".join(command), result.stdout, result.stderr))
    return result.stderr if fails else result.stdout


def program():
    return os.path.join(folder, "target", "debug", "app")


shutil.rmtree(folder, ignore_errors=True)
os.makedirs(os.path.join(app, "src"))
run(cmake, "--install", build, "--prefix", prefix)
package, = glob.glob(prefix + "/**/nibble.pc", recursive=True)
with open(package, encoding="utf-8") as file:  # a package's prefix is where it was configured to go
    lines = ["prefix=%s\n" % prefix if line.startswith("prefix=") else line for line in file]
with open(package, "w", encoding="utf-8") as file:
    file.writelines(lines)
libraries = os.path.dirname(glob.glob(prefix + "/**/libnibble.so", recursive=True)[0])

shutil.copy(os.path.join(crate, "examples", "generate.rs"), os.path.join(app, "src", "main.rs"))
with open(os.path.join(app, "Cargo.toml"), "w", encoding="utf-8") as file:
    file.write('[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n\n[dependencies]\nnibble = { path = "%s" }\n' % crate)

if shutil.which("pkg-config"):
    run(cargo, "build", where=app, PKG_CONFIG_PATH=os.path.dirname(package))
    text = run(program(), model, LD_LIBRARY_PATH=libraries)
    assert len(text.split()) > 10, text
    run(program(), model, fails=True)  # without a run path

with open(os.path.join(app, "build.rs"), "w", encoding="utf-8") as file:
    file.write('fn main() {\n    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_NIBBLE_LIBDIR").unwrap());\n}\n')
run(cargo, "build", where=app, NIBBLE_DIR=prefix)
assert len(run(program(), model).split()) > 10

for environment in ({"PKG_CONFIG": "no-such-program"}, {"PKG_CONFIG": "false"}, {"NIBBLE_DIR": app}):
    message = run(cargo, "build", fails=True, where=app, **environment)
    assert "or set NIBBLE_DIR" in message and (app in message) == ("NIBBLE_DIR" in environment), message

run(cargo, "package", "--locked", "--allow-dirty", "--target-dir", os.path.join(folder, "target"), where=crate, NIBBLE_DIR=prefix)
