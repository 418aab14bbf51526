"""bindings/go: the options and properties as methods, the codes, their numbers against the header."""
from generator import language
from generator.go_names import BANNER, BLOCK_TYPES, NUMBERS, PROPERTY_NAMES, aligned, comment, pascal


def property_methods(go):
    """A method for each property, with the type that it deserves."""
    out = ""
    for row in go.api.props:
        name = PROPERTY_NAMES.get(row["name"]) or pascal(row["name"])
        prop = go.prop(row["name"])
        owner, *text = row["of"].split()
        kind = "time.Duration" if row["name"].endswith("_NS") else "Token" if row["name"].endswith("_TOKEN") else "StopReason" if row["name"] == "STOP_REASON" else "int64"
        doc = "%s: %s" % (name, go.doc(row["doc"]))
        if row["name"].endswith("_NS"):
            doc = doc.replace("nanoseconds that", "the time that").replace("nanoseconds of", "the time of").replace("nanoseconds spent", "the time spent")
        if row["name"] == "STOP_REASON":
            doc = "StopReason tells why the generation ended."
        doc = comment("", doc)
        if owner == "device":
            out += "\n%sfunc %s(device int) (int64, error) {\n\treturn DeviceInt64(device, %s)\n}\n" % (doc, name, prop)
            continue
        letter = {"model": "m", "session": "s"}[owner]
        head = "\n%sfunc (%s *%s) %s() " % (doc, letter, go.handle(owner), name)
        if text:
            out += head + "(string, error) {\n\treturn %s.TextOf(%s)\n}\n" % (letter, prop)
        elif kind == "int64":
            out += head + "(int64, error) {\n\treturn %s.Int64(%s)\n}\n" % (letter, prop)
        else:
            out += head + "(%s, error) {\n\tvalue, err := %s.Int64(%s)\n\treturn %s(value), err\n}\n" % (kind, letter, prop, kind)
    return out


def option_facts(option):
    """What may be given, as a paragraph of its own."""
    facts = []
    if option.values:
        facts.append("one of " + ", ".join('"%s"' % value for value in option.values))
    elif option.low is not None and option.kind != "bool":
        facts.append("from %s to %s" % (option.low, option.high))
    if option.default not in (None, "") and option.kind != "list":
        default = str(bool(option.default)).lower() if option.kind == "bool" else '"%s"' % option.default if option.kind == "str" else option.default
        facts.append("default %s" % default)
    text = "; ".join(facts)
    return "//\n" + comment("", "For: %s. %s" % (option.scope, text[:1].upper() + text[1:] + "." if facts else ""))


def option_methods(go):
    out = BANNER + "package nibble\n\nimport (\n\t\"strconv\"\n\t\"time\"\n)\n"
    kinds = {"bool": "bool", "i64": "int", "f64": "float64", "str": "string"}
    values = {"bool": "flag(value)", "i64": "int64(value)", "f64": "value", "str": "value"}
    setters = {"bool": "SetInt64", "i64": "SetInt64", "f64": "SetFloat64", "str": "SetString"}
    constants = ""
    for option in language.options(go.api):
        base = pascal(option.name)
        name, symbol = go.option_verb(option) + base, "Opt" + base
        kind = "int64" if option.name == "SEED" else kinds.get(option.kind, "")
        doc = go.doc(option.doc)
        if option.kind == "list":
            element = "int" if option.integers else "string"
            value = "strconv.Itoa(value)" if option.integers else "value"
            loop = "\tfor _, value := range values {\n\t\tif err := %%s.AddString(%s, %s); err != nil {\n\t\t\treturn %%s\n\t\t}\n\t}\n\treturn %%s\n}\n" % (symbol, value)
            out += "\n" + comment(name, doc) + option_facts(option)
            out += "func (c *Config) %s(values ...%s) *Config {\n" % (name, element) + loop % ("c", "c.keep(err)", "c")
            if option.generation:
                out += "\n" + comment(name, doc)
                out += "func (s *Session) %s(values ...%s) error {\n" % (name, element) + loop % ("s", "err", "nil")
            continue
        out += "\n" + comment(name, doc) + option_facts(option)
        value = "value" if kind == "int64" else values[option.kind]
        out += "func (c *Config) %s(value %s) *Config {\n\treturn c.keep(c.%s(%s, %s))\n}\n" % (name, kind, setters[option.kind], symbol, value)
        if option.generation:
            out += "\n" + comment(name, doc)
            out += "func (s *Session) %s(value %s) error {\n\treturn s.%s(%s, %s)\n}\n" % (name, kind, setters[option.kind], symbol, value)
        if option.values:
            constants += "\n" + comment("", "Values of %s." % name) + "const (\n"
            constants += aligned([[base + pascal(text), '= "%s"' % text] for text in option.values]) + ")\n"
    return out + constants + property_methods(go)


def codes(go):
    api = go.api
    out = BANNER + "package nibble\n\nimport \"fmt\"\n\n"
    out += "const (\n\tversionMajor = %d\n\tversionMinor = %d\n\tversionPatch = %d\n)\n\n" % (api.major, api.minor, api.patch)
    out += "// apiHash is that of every name, type and value that this package was generated from.\nconst apiHash = \"%s\"\n\n" % api.hash
    out += """// Code is what a function of the library answers. Those below zero are failures; as errors they are what errors.Is
// compares with: errors.Is(err, nibble.ErrCancelled).
type Code int32

const (
"""
    for row in api.statuses:
        out += comment("", go.doc(row["doc"]), "\t") + "\t%s Code = %d\n" % (go.status(row["name"]), row["value"])
    out += ")\n\n// Error tells what the code means.\nfunc (c Code) Error() string {\n\tswitch c {\n"
    for row in api.statuses:
        out += "\tcase %s:\n\t\treturn \"nibble: %s\"\n" % (go.status(row["name"]), go.doc(row["doc"]).replace('"', '\\"'))
    out += "\t}\n\treturn fmt.Sprintf(\"nibble: code %d\", int32(c))\n}\n"
    for block in api.constants:
        kind = BLOCK_TYPES[block["prefix"]]
        doc = go.doc(block["doc"])
        if kind:
            out += "\n" + comment(kind, doc) + "type %s %s\n" % (kind, NUMBERS[block["type"]])
            out += "\nconst (\n"
        else:
            out += "\n" + comment("", doc) + "const (\n"
        out += aligned([[go.constant(block["prefix"], name)] + ([kind] if kind else []) + ["= %d" % value, "// " + go.doc(text)]
                        for name, value, text in block["values"]]) + ")\n"
        if kind in ("StopReason", "LogLevel"):
            out += "\n// String names the value.\nfunc (v %s) String() string {\n\tswitch v {\n" % kind
            for name, _, _ in block["values"]:
                out += "\tcase %s:\n\t\treturn \"%s\"\n" % (go.constant(block["prefix"], name), name.lower().replace("_", " "))
            out += "\t}\n\treturn fmt.Sprintf(\"%s(%%d)\", int32(v))\n}\n" % kind
    out += "\n// Token is an id of the model's vocabulary.\ntype Token int32\n"
    out += "\n// Prop is a property, for Int64 and TextOf; each has a method of its own too.\ntype Prop int32\n\nconst (\n"
    out += aligned([[go.prop(row["name"]), "Prop", "= %d" % row["value"], "// %s: %s" % (row["of"], go.doc(row["doc"]))] for row in api.props])
    out += ")\n\n// Option is an option's number, for SetInt64 and its like; each has a method of its own too.\ntype Option int32\n\nconst (\n"
    out += aligned([["Opt" + pascal(option.name), "Option", "= %d" % option.value, "// " + go.option(option)] for option in language.options(api)])
    return out + ")\n"


def header_checks(go):
    """The compiler compares each number with the header that the package is built against."""
    api = go.api
    pairs = [(go.status(row["name"]), row["name"]) for row in api.statuses]
    pairs += [(go.constant(block["prefix"], v[0]), block["prefix"] + "_" + v[0]) for block in api.constants for v in block["values"]]
    pairs += [(go.prop(row["name"]), "PROP_" + row["name"]) for row in api.props]
    pairs += [("Opt" + pascal(row.name), "OPT_" + row.name) for row in language.options(api)]
    out = BANNER + "package nibble\n\n// #include <nibble.h>\nimport \"C\"\n\n"
    out += "// Each number against the header that this is built with: a difference is an index that no array of one element has.\nvar _ = [...]struct{}{\n"
    for name, symbol in pairs:
        out += "\t[1]struct{}{}[int(%s)-(C.NBL_%s)],\n" % (name, symbol)
    return out + "}\n"
