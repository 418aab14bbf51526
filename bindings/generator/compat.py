"""The append-only rule: a released promise is never taken back."""
import json

from generator import spec


def compare(released_path, api):
    """Sentences, one for each promise that is broken."""
    old = json.loads(released_path.read_text(encoding="utf-8"))["promises"]
    new = spec.promises(api)
    problems = []
    for kind in ("functions", "statuses", "constants", "props", "options"):
        for name, promise in old[kind].items():
            if name not in new[kind]:
                problems.append("%s %s was released and is gone" % (kind, name))
            elif new[kind][name] != promise:
                problems.append("%s %s was released as %s and is now %s" % (kind, name, promise, new[kind][name]))
    if new["version"] < old["version"]:
        problems.append("the version %s is below the released %s" % (new["version"], old["version"]))
    added = [n for n in new["functions"] if n not in old["functions"]]
    for name in added:
        if new["functions"][name]["since"] <= "%d.%d" % tuple(old["version"]):
            problems.append("function %s is new and must say since a version above %d.%d" % (name, *old["version"]))
    return problems
