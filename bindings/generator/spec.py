"""The spec as objects: names resolved, arguments expanded to C parameters, checked for consistency."""
import hashlib
import json
import tomllib
from dataclasses import dataclass, field

NUMBERS = {"i32": "int32_t", "i64": "int64_t", "u32": "uint32_t", "u64": "uint64_t", "f32": "float", "f64": "double", "size": "size_t",
           "option": "nbl_option", "prop": "nbl_prop", "token": "nbl_token", "status": "nbl_status"}
ARRAYS = ("in", "same", "array", "beside")
RETURNS = {"result": "nbl_status", "void": "void", "cstr": "const char *", "i32": "int32_t", "u32": "uint32_t", "status": "nbl_status",
           "option": "nbl_option"}


@dataclass
class Arg:
    """One argument of the spec. kind: text in same array beside buffer string new handle number out memory logfn user."""
    kind: str
    name: str
    type: str = ""          # the element, number or handle type
    const: bool = False
    nullable: bool = False
    base: str = ""          # for same and beside: the array whose length it shares

    def c(self):
        """The C parameters as (type, name)."""
        number = NUMBERS.get(self.type, "")
        if self.kind == "text":
            return [("const char *", self.name), ("size_t ", self.name + "_len")]
        if self.kind == "in":
            return [("const %s *" % number, self.name), ("size_t ", self.name + "_count")]
        if self.kind == "same":
            return [("const %s *" % number, self.name)]
        if self.kind == "array":
            return [(number + " *", self.name), ("size_t ", self.name + "_capacity"), ("size_t *", self.name + "_count")]
        if self.kind == "beside":
            return [(number + " *", self.name)]
        if self.kind == "buffer":
            return [("char *", self.name), ("size_t ", self.name + "_capacity"), ("size_t *", self.name + "_len")]
        if self.kind == "string":
            return [("char **", self.name), ("size_t *", self.name + "_len")]
        if self.kind == "new":
            return [("nbl_%s **" % self.type, self.name)]
        if self.kind == "handle":
            return [("%snbl_%s *" % ("const " if self.const else "", self.type), self.name)]
        if self.kind == "number":
            return [(number + " ", self.name)]
        if self.kind == "out":
            return [(number + " *", self.name)]
        return {"memory": [("void *", self.name)], "logfn": [("nbl_log_fn ", self.name)], "user": [("void *", self.name)]}[self.kind]


@dataclass
class Fn:
    name: str
    group: str
    doc: str
    args: list
    thread: str
    blocks: str = "short"
    returns: str = "result"     # "result": a status, and an error object as the last parameter
    release: bool = False
    since: str = "1.0"

    @property
    def fallible(self):
        return self.returns == "result"

    @property
    def self_arg(self):
        return self.args[0] if self.args and self.args[0].kind == "handle" else None

    def c_params(self):
        params = [p for arg in self.args for p in arg.c()]
        return params + [("nbl_error **", "err")] if self.fallible else params

    def c_return(self):
        return RETURNS[self.returns]


@dataclass
class Api:
    major: int
    minor: int
    patch: int
    handles: list
    statuses: list
    constants: list
    props: list
    options: list
    fns: list
    hash: str = ""
    raw: dict = field(default_factory=dict)

    @property
    def version(self):
        return "%d.%d.%d" % (self.major, self.minor, self.patch)


def parse_arg(text, handles, before):
    """"const model? m" -> Arg."""
    words = text.split()
    name = words[-1]
    const = words[0] == "const"
    if const:
        words = words[1:]
    kind = words[0]
    nullable = kind.endswith("?")
    kind = kind.rstrip("?")
    if kind in handles:
        return Arg("handle", name, kind, const, nullable)
    if kind in NUMBERS and len(words) == 2:
        return Arg("number", name, kind)
    if kind in ("text", "buffer", "string", "memory", "logfn", "user"):
        return Arg(kind, name, "", nullable=nullable)
    if kind in ARRAYS + ("out", "new"):
        base = next((a.name for a in reversed(before) if a.kind in ("in", "array")), "") if kind in ("same", "beside") else ""
        if kind in ("same", "beside") and not base:
            raise SystemExit("nibble.toml: %r has no array before it" % text)
        return Arg(kind, name, words[1], nullable=nullable, base=base)
    raise SystemExit("nibble.toml: the argument %r is not understood" % text)


def load(path):
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    handles = [h["name"] for h in raw["handle"]]
    fns = []
    for entry in raw["fn"]:
        args = []
        for text in entry["args"]:
            args.append(parse_arg(text, handles, args))
        fns.append(Fn(entry["name"], entry["group"], entry["doc"], args, entry["thread"], entry.get("blocks", "short"),
                      entry.get("returns", "result"), entry.get("release", False), entry.get("since", "1.0")))
    api = Api(raw["api"]["major"], raw["api"]["minor"], raw["api"]["patch"], raw["handle"], raw["status"], raw["constants"],
              raw["prop"], raw["option"], fns, raw=raw)
    check(api)
    api.hash = hashlib.sha256(json.dumps(promises(api), sort_keys=True).encode()).hexdigest()[:16]
    return api


def promises(api):
    """What programs rely on: names, types, values. Not the documentation."""
    return {
        "functions": {f.name: {"returns": f.c_return().strip(), "params": [t.strip() for t, _ in f.c_params()], "since": f.since} for f in api.fns},
        "statuses": {s["name"]: s["value"] for s in api.statuses},
        "constants": {"%s_%s" % (c["prefix"], v[0]): v[1] for c in api.constants for v in c["values"]},
        "props": {p["name"]: p["value"] for p in api.props},
        "options": {o["name"]: {"value": o["value"], "type": o["type"]} for o in api.options},
        "version": [api.major, api.minor],
    }


def check(api):
    for what, rows in (("option", api.options), ("prop", api.props), ("status", api.statuses), ("fn", api.raw["fn"])):
        for key in ("name", "value"):
            seen = [row[key] for row in rows if key in row]
            if len(seen) != len(set(seen)):
                raise SystemExit("nibble.toml: two rows of %s share a %s" % (what, key))
    for option in api.options:
        if option["type"] not in ("i64", "f64", "str", "list"):
            raise SystemExit("nibble.toml: option %s has the type %s" % (option["name"], option["type"]))
    for fn in api.fns:
        if fn.thread not in ("any", "own") or fn.blocks not in ("short", "long"):
            raise SystemExit("nibble.toml: %s has an unknown thread or blocks" % fn.name)
