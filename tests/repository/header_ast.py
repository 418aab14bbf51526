#!/usr/bin/env python3
"""The compiler's view: what clang reads in the header is what the spec says, name by name: header_ast.py HEADER SPEC.JSON [CLANG]"""
import json
import re
import subprocess
import sys


def plain(c_type):
    return re.sub(r"\s*\*\s*", "*", c_type).strip()


def declared(header, clang):
    """({function: (result, [parameter types])}, {constant: value}) as clang's syntax tree has them."""
    command = [clang, "-x", "c", "-std=c99", "-fsyntax-only", "-Xclang", "-ast-dump=json", header]
    tree = json.loads(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)
    functions, constants = {}, {}
    for node in tree["inner"]:
        if node["kind"] == "FunctionDecl" and node["name"].startswith("nbl_"):
            result = node["type"]["qualType"].split("(")[0]
            params = [child["type"]["qualType"] for child in node.get("inner", []) if child["kind"] == "ParmVarDecl"]
            functions[node["name"]] = (plain(result), [plain(param) for param in params])
        elif node["kind"] == "EnumDecl":
            following = 0
            for constant in (child for child in node.get("inner", []) if child["kind"] == "EnumConstantDecl"):
                value = next((int(child["value"]) for child in constant.get("inner", []) if "value" in child), following)
                following = value + 1
                constants[constant["name"]] = value
    return functions, constants


def main(header, spec, clang="clang"):
    with open(spec, encoding="utf-8") as file:
        promises = json.load(file)["promises"]
    wanted = {"nbl_" + name: (plain(fn["returns"]), [plain(param) for param in fn["params"]]) for name, fn in promises["functions"].items()}
    values = {"NBL_" + name: value for name, value in list(promises["statuses"].items()) + list(promises["constants"].items())}
    values.update({"NBL_PROP_" + name: value for name, value in promises["props"].items()})
    values.update({"NBL_OPT_" + name: option["value"] for name, option in promises["options"].items()})
    functions, constants = declared(header, clang)
    problems = ["%s is %s in the header, %s in the spec" % (name, found.get(name, "not"), expected.get(name, "not"))
                for found, expected in ((functions, wanted), (constants, values))
                for name in sorted(set(found) | set(expected)) if found.get(name) != expected.get(name)]
    print("\n".join(problems) or "%d functions and %d constants, as specified" % (len(functions), len(constants)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
