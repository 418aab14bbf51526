#!/usr/bin/env python3
"""gofmt has nothing to change in the module of the current folder: format_test.py GO"""
import os
import shutil
import subprocess
import sys

gofmt = os.path.join(os.path.dirname(os.path.realpath(sys.argv[1])), "gofmt")
gofmt = gofmt if os.path.exists(gofmt) else shutil.which("gofmt")
difference = subprocess.run([gofmt, "-d", "."], capture_output=True, encoding="utf-8", check=True).stdout
print(difference)
sys.exit(1 if difference else 0)
