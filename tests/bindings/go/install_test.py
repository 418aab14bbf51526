#!/usr/bin/env python3
"""A program of one's own, outside the repository, on an installed nibble: install_test.py BUILD SOURCE CMAKE GO CACHE

It follows the README of bindings/go: go mod edit, pkg-config; then without pkg-config.
"""
import glob
import os
import shutil
import subprocess
import sys

build, source, cmake, go, cache = sys.argv[1:6]
model = os.path.join(source, "samples", "models", "story-6m-awq")


def run(*command, folder=None, **environment):
    settings = dict(os.environ, GOCACHE=cache, GOPROXY="off", GOFLAGS="-mod=mod", GOTOOLCHAIN="local", **environment)
    result = subprocess.run(command, cwd=folder, env=settings, capture_output=True, encoding="utf-8", timeout=280)
    if result.returncode != 0:
        sys.exit("%s failed:\n%s%s" % (" ".join(command), result.stdout, result.stderr))
    return result.stdout


# Always the same folder: Go's cache does not see that pkg-config answers with another one.
folder = os.path.join(os.path.dirname(cache), "installed")
shutil.rmtree(folder, ignore_errors=True)
prefix, app = os.path.join(folder, "prefix"), os.path.join(folder, "app")
run(cmake, "--install", build, "--prefix", prefix)
package, = glob.glob(prefix + "/**/nibble.pc", recursive=True)
with open(package, encoding="utf-8") as file:  # a package's prefix is where it was configured to go
    lines = ["prefix=%s\n" % prefix if line.startswith("prefix=") else line for line in file]
with open(package, "w", encoding="utf-8") as file:
    file.writelines(lines)
libraries = os.path.dirname(glob.glob(prefix + "/**/libnibble.so", recursive=True)[0])

os.mkdir(app)
shutil.copy(os.path.join(source, "bindings", "go", "samples", "generate", "main.go"), app)
run(go, "mod", "init", "app", folder=app)
run(go, "mod", "edit", "-require", "nibble@v1.0.0", "-replace", "nibble=" + os.path.join(source, "bindings", "go"), folder=app)
run(go, "build", "-o", "configured", folder=app, PKG_CONFIG_PATH=os.path.dirname(package))
text = run(os.path.join(app, "configured"), model, LD_LIBRARY_PATH=libraries)
assert len(text.split()) > 10, text

run(go, "build", "-tags", "nibble_noconfig", "-o", "plain", folder=app, CGO_CFLAGS="-I%s/include" % prefix,
    CGO_LDFLAGS="-L%s -lnibble -Wl,-rpath,%s" % (libraries, libraries))
assert run(os.path.join(app, "plain"), model) == text
