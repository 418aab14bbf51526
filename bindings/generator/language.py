"""What the writers of Go, Rust and C# share: names, documentation in the language's own names, functions by handle, options.

Each writer makes one `Language`; the reference pages ask the same objects, so that a page never names what is not there.
"""
import importlib
import pkgutil
import re
from dataclasses import dataclass

HIDDEN = ("free", "log_callback", "abi_check")  # a binding frees what it takes, pulls instead of being called, checks once

# What a status above zero says of a function that succeeds: these give it beside their results.
POSITIVE = {"session_next": "DONE", "job_wait": "PENDING", "log_next": "PENDING"}

# Arrays that hold as many as the caller wants; every other one is as large as the library says.
CALLER_SIZED = ("session_top",)

# When a binding is used first it checks the library, in every language by the same rule: nbl_abi_check of the version it
# was generated for; and where the library's version (abi_version) is that very version, the api_hash of nbl_build_info
# is its own hash (a library of a later minor version has another one, rightly). Its error names both versions and hashes.


def words(name):
    return [word for word in name.lower().split("_") if word]


def pascal(name, initialisms=()):
    """TOP_K -> TopK; with the initialism "id", token_id -> TokenID."""
    return "".join(word.upper() if word in initialisms else word[:1].upper() + word[1:] for word in words(name))


def camel(name, initialisms=()):
    first, *rest = words(name)
    return first + "".join(pascal(word, initialisms) for word in rest)


def snake(name):
    return "_".join(words(name))


def constant(name):
    return "_".join(words(name)).upper()


def escape(name, reserved, form="%s_"):
    """A name that the language allows: form is "%s_", "r#%s" or "@%s"."""
    return form % name if name in reserved else name


def owner(fn, handles):
    """The handle whose method or constructor a function is, "" for one of the library: session_next -> session,
    tokenize -> model, model_load -> model, version -> ""."""
    if fn.self_arg:
        made = next((arg.type for arg in fn.args if arg.kind == "new"), "")
        return made if fn.name == made + "_create" else fn.self_arg.type
    head = fn.name.split("_")[0]
    return head if head in handles else ""


def verb(fn, handles):
    """The name without its handle, imperative first: session_next -> next, perplexity_start -> start_perplexity."""
    name = fn.name
    head = owner(fn, handles)
    if head and name.startswith(head + "_"):
        name = name[len(head) + 1:]
    return "start_" + name[:-len("_start")] if name.endswith("_start") else name


def flags(fn, api):
    """The block of constants that the function's flags are of: TOKENIZE; None where it takes none."""
    if not any(arg.name == "flags" for arg in fn.args):
        return None
    named = set(re.findall(r"NBL_([A-Z]+)_\*", fn.doc)) or {fn.name.split("_")[0].upper()}
    return next(block for block in api.constants if block["prefix"] in named)


def by_owner(api):
    """handle -> its functions in the order of the spec; "" -> the library's."""
    handles = [handle["name"] for handle in api.handles]
    groups = {name: [] for name in [""] + handles}
    for fn in api.fns:
        groups[owner(fn, handles)].append(fn)
    return groups


@dataclass
class Option:
    """One option as an accessor needs it."""
    name: str           # TOP_K
    value: int
    kind: str           # bool i64 f64 str list: what a user of the language gives
    stored: str         # i64 f64 str list: the setter of the C API
    default: object
    low: object         # None where the spec has no bounds
    high: object
    values: tuple       # the texts allowed; empty: any
    integers: bool      # a list of whole numbers, given as decimal text
    generation: bool    # also a setter of a session
    scope: str          # "session, generation"
    doc: str


def options(api):
    rows = []
    for row in api.options:
        flag = row["type"] == "i64" and row.get("min") == 0 and row.get("max") == 1
        rows.append(Option(
            name=row["name"], value=row["value"], kind="bool" if flag else row["type"], stored=row["type"], default=row.get("default"),
            low=row.get("min"), high=row.get("max"), values=tuple(row.get("values", ())), integers="as decimal text" in row["doc"],
            generation="generation" in row["for"], scope=row["for"], doc=row["doc"].replace(", as decimal text", "")))
    return rows


class Language:
    """The names of one language. A writer derives from it and gives every name as a user of the language writes it."""
    key = ""                    # "go", the folder below bindings/
    title = ""                  # "Go"
    null = "NULL"
    reserved = frozenset()

    def __init__(self, api):
        self.api = api
        self.handles = [handle["name"] for handle in api.handles]
        self.fns = {fn.name: fn for fn in api.fns}
        self.statuses = {row["name"] for row in api.statuses}

    def function(self, fn):
        """"Session.Next"; "" for one that the binding keeps to itself."""
        raise NotImplementedError

    def option(self, option):
        raise NotImplementedError

    def status(self, name):
        """Of "E_FORMAT", "OK"."""
        raise NotImplementedError

    def prop(self, name):
        raise NotImplementedError

    def constant(self, prefix, name):
        """Of "TOKENIZE", "ADD_SPECIAL"; name "*" stands for all of the prefix."""
        raise NotImplementedError

    def handle(self, name):
        return pascal(name)

    def argument(self, name):
        """The name of a parameter."""
        return name

    def doc(self, text):
        """The text of the spec with the names of this language. What stands in quotes is left alone."""
        bare = dict([(name, name) for name in self.statuses] + [(name.removeprefix("E_"), name) for name in self.statuses])
        rows = {row.name: row for row in options(self.api)}
        verbs = {verb(fn, self.handles): fn for fn in self.api.fns}
        arguments = {name for fn in self.api.fns for _, name in fn.c_params()}

        def symbol(name):
            if name in self.statuses:
                return self.status(name)
            if name.startswith("OPT_"):
                return self.option(rows[name[4:]])
            if name.startswith("PROP_"):
                return self.prop(name[5:])
            prefix, _, rest = name.partition("_")
            return self.constant(prefix, rest) if prefix in {block["prefix"] for block in self.api.constants} else "NBL_" + name

        def replace(match):
            name = match[0]
            if name.startswith("NBL_"):
                return symbol(name[4:])
            if name.startswith("nbl_"):
                fn = self.fns.get(name[4:])
                return self.function(fn) if fn else self.handle(name[4:]) if name[4:] in self.handles else name
            if name == "NULL":
                return self.null
            if name in bare:  # "BUSY while sessions exist"
                return self.status(bare[name])
            if name in rows:  # "Modules that LOAD_QUANT leaves alone"
                return self.option(rows[name])
            if "_" in name and name in verbs:  # "append_text with ..."
                return self.function(verbs[name])
            return self.argument(name) if "_" in name and name in arguments else name

        return re.sub(r"(?<![\w.\"])[A-Za-z][A-Za-z0-9_]*(?:(?<=_)\*)?(?![\w\"])", replace, text)


def languages(api):
    """One of each Language that a module of this package defines, in a fixed order."""
    package = importlib.import_module("generator")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module("generator." + module.name)
    order = ["go", "rust", "csharp"]
    return [made(api) for made in sorted(Language.__subclasses__(), key=lambda made: order.index(made.key))]
