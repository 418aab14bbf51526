"""The names of the C# binding: what each function, option, code and property of the spec is called there."""
import textwrap

from generator.language import HIDDEN, Language, by_owner, camel, escape, pascal, verb

RESERVED = frozenset("""abstract as base bool break byte case catch char checked class const continue decimal default delegate do double
    else enum event explicit extern false finally fixed float for foreach goto if implicit in int interface internal is lock long
    namespace new null object operator out override params private protected public readonly ref return sbyte sealed short sizeof
    stackalloc static string struct switch this throw true try typeof uint ulong unchecked unsafe ushort using virtual void volatile
    while""".split())

# Where the rule (the verb in UpperCamel) does not give what a C# programmer would write.
RENAMED = {
    "build_info": "GetBuildInfo", "device_i64": "GetInt64", "model_i64": "GetInt64", "session_i64": "GetInt64", "model_str": "GetString",
    "config_set_i64": "SetInt64", "config_set_f64": "SetDouble", "config_set_str": "SetString", "session_set_i64": "SetInt64",
    "session_set_f64": "SetDouble", "log_level": "SetLevel", "option_describe": "DescribeOption", "token_bytes": "GetTokenBytes",
    "chat_render": "RenderChat", "session_clear": "ClearOption", "session_bias": "SetBias", "session_tokens": "GetTokens",
    "session_logits": "GetLogits", "session_top": "GetTop", "job_progress": "GetProgress", "job_result": "GetResult",
    "job_memory": "PeakBytes", "config_add_str": "AddString", "session_add_str": "AddString"}
PROPERTIES = ("version", "abi_version", "device_count", "device_name", "option_count", "job_stage", "job_memory")  # read without arguments
GROUP_CLASSES = {"library": "Library", "log": "Log", "device": "Device", "config": "Config"}
CONSTANT_CLASSES = {"TOKENIZE": "TokenizeFlags", "DETOKENIZE": "DetokenizeFlags", "STOP": "StopReason", "LOG": "LogLevel"}
OWNED_PREFIXES = ("DEVICE_", "SESSION_")    # Device.TotalBytes, not Device.DeviceTotalBytes
STATIC_DOCS = {"Library": "The library that is loaded: which version it is.",
               "Log": "The library's log. It is silent until a level is set.",
               "Device": "An NVIDIA GPU. An object is only its number; it holds nothing and need not be disposed."}


class CSharp(Language):
    key = "csharp"
    title = "C#"
    null = "null"
    reserved = RESERVED

    def type_of(self, fn):
        """The class that has the function."""
        handle = next((name for name, fns in by_owner(self.api).items() if fn in fns), "")
        return self.handle(handle) if handle else GROUP_CLASSES.get(fn.group, "Library")

    def member(self, fn):
        if fn.release:
            return "Dispose"
        if fn.name in RENAMED:
            return RENAMED[fn.name]
        name = verb(fn, self.handles)
        prefix = fn.group + "_"
        return pascal(name[len(prefix):] if not fn.self_arg and name.startswith(prefix) else name)

    def function(self, fn):
        if fn.name in HIDDEN:
            return ""
        if fn.group == "error":
            return {"error_release": ""}.get(fn.name, "NibbleException." + pascal(verb(fn, self.handles)))
        made = next((arg.type for arg in fn.args if arg.kind == "new"), "")
        if fn.name == made + "_create":
            return "new " + self.handle(made)
        return self.type_of(fn) + "." + self.member(fn)

    def handle(self, name):
        return "NibbleException" if name == "error" else pascal(name)

    def option(self, option):
        return "Config." + pascal(option.name)

    def status(self, name):
        return "Status." + pascal(name.removeprefix("E_"))

    def prop(self, name):
        if name.endswith("*"):
            return pascal(name.rstrip("_*"))
        row = next(row for row in self.api.props if row["name"] == name)
        return "%s.%s" % (pascal(row["of"].split()[0]), self.property(row))

    def property(self, row):
        name = row["name"]
        for prefix in OWNED_PREFIXES:
            name = name.removeprefix(prefix)
        return pascal(name)

    def constants(self, block):
        """The enumeration of a block of constants."""
        return CONSTANT_CLASSES.get(block["prefix"], pascal(block["prefix"]) + ("Flags" if block["type"] == "u32" else "Kind"))

    def constant(self, prefix, name):
        if prefix == "DEVICE":
            return "Device" if name == "*" else "Device." + pascal(name)
        block = next(block for block in self.api.constants if block["prefix"] == prefix)
        return self.constants(block) if name == "*" else "%s.%s" % (self.constants(block), pascal(name))

    def argument(self, name):
        return escape(camel(name), self.reserved, "@%s")

    def xml(self, text, indent, tag="summary"):
        """A documentation comment in the names of C#."""
        text = self.doc(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return comment(text, indent, tag)


def comment(text, indent, tag="summary"):
    text = text[:1].upper() + text[1:] + ("" if text.endswith((".", "...", "}")) else ".")
    whole = "%s/// <%s>%s</%s>\n" % (indent, tag, text, tag)
    if len(whole) <= 130:
        return whole
    lines = textwrap.wrap(text, 120 - len(indent))
    return "%s/// <%s>\n%s%s/// </%s>\n" % (indent, tag, "".join("%s/// %s\n" % (indent, line) for line in lines), indent, tag)


def wrapped(text, limit=138):
    """C# with its long lines broken behind a comma; comments are short already."""
    out = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        while len(line) > limit and ", " in line[len(indent) + 4:limit]:
            cut = line.rindex(", ", 0, limit) + 1
            out.append(line[:cut])
            line = indent + line[cut + 1:]
        out.append(line)
    return "\n".join(out)
