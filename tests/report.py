#!/usr/bin/env python3
"""Reads the JUnit file that CTest writes: prints failed tests with their output, skipped ones with their reason, and a
last line with the counts. Exit status 1 when something failed or nothing ran."""
import collections
import re
import sys
import xml.etree.ElementTree


def reason_of(output):
    """The line in which a test says why it did not run."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("SKIPPED:"):
            return line[len("SKIPPED:"):].strip()
        if re.search(r": Skipped$", line) and index + 1 < len(lines):  # GoogleTest: place, then message
            return lines[index + 1]
    return "no reason given"


def main():
    passed, failed, skipped = 0, [], collections.defaultdict(list)
    for case in xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        name = case.get("name").split("  # ")[0]  # GoogleTest's parameter follows
        output = case.findtext("system-out") or ""
        if case.get("status") == "fail":
            failed.append((name, output))
        elif case.get("status") == "run":
            passed += 1
        else:
            skipped[reason_of(output)].append(name)
    for name, output in failed:
        print("FAILED %s\n%s" % (name, output[-4000:]))
    for reason, names in sorted(skipped.items()):
        shown = ", ".join(names[:3]) + (", and %d more" % (len(names) - 3) if len(names) > 3 else "")
        print("skipped %s: %s" % (shown, reason if len(reason) <= 120 else reason[:117] + "..."))
    print("%d passed, %d failed, %d skipped" % (passed, len(failed), sum(map(len, skipped.values()))))
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
