"""bindings/go: the functions as methods, by the roles of their arguments.

A handle that is nil goes to the library as NULL: the library refuses it, as it does for C, and the contract test proves by
it that every function is there and takes what it should.
"""
import re

from generator import language
from generator.go_names import BANNER, BLOCK_TYPES, C_NUMBERS, NUMBERS, THREADS, aligned, comment, pascal


class Body:
    """The wrapper of one function that can fail: what it declares, calls and returns, collected argument by argument."""

    def __init__(self, go, fn):
        self.go, self.fn = go, fn
        self.params, self.before, self.call = [], [], []
        self.results = []       # (name, type, expression), without the error
        self.again = []         # what makes room when the library says ErrBuffer
        self.failure = "failure"    # where the library's error goes
        for arg in fn.args:
            getattr(self, "add_" + arg.kind)(arg)
        if fn.name in language.POSITIVE:
            self.results.append(("ok", "bool", "status != C.NBL_%s" % language.POSITIVE[fn.name]))

    def name(self, arg):
        return self.go.argument(arg.name)

    def add_handle(self, arg):
        is_self = arg is self.fn.self_arg
        variable = arg.name if is_self else arg.type
        if not is_self:
            self.params.append("%s *%s" % (variable, self.go.handle(arg.type)))
        pointer = "native" + self.go.handle(arg.type)
        hold = "use" if arg.type == "config" and not is_self else "hold"
        self.before += ["%s, err := %s.%s()" % (pointer, variable, hold), "if err != nil {", "\treturn @err", "}", "defer %s.drop()" % variable]
        self.call.append(pointer)

    def add_text(self, arg):
        self.params.append(self.name(arg) + " string")
        self.call.append("textPointer(%s), C.size_t(len(%s))" % (self.name(arg), self.name(arg)))

    def add_in(self, arg):
        name = self.name(arg)
        self.params.append("%s []%s" % (name, NUMBERS[arg.type]))
        self.call.append("(*C.%s)(first(%s)), C.size_t(len(%s))" % (C_NUMBERS[arg.type], name, name))

    def add_same(self, arg):
        name, base = self.name(arg), self.go.argument(arg.base)
        self.params.append("%s []%s" % (name, NUMBERS[arg.type]))
        self.before += ["if len(%s) != len(%s) {" % (name, base), "\treturn @lengths(\"%s\", len(%s), \"%s\", len(%s))" % (name, name, base, base), "}"]
        self.call.append("(*C.%s)(first(%s))" % (C_NUMBERS[arg.type], name))

    def add_array(self, arg):
        name = self.name(arg)
        sized = self.fn.name in language.CALLER_SIZED
        text = next((self.name(a) for a in self.fn.args if a.kind == "text"), None)
        if sized:
            self.params.append("count int")
            self.before += ["if count < 0 {", "\tcount = 0", "}"]
        # A text has seldom more tokens than a third of its bytes; what is too small grows.
        room = "count" if sized else "len(%s)/3+16" % text if text else "0"
        self.before += ["@%s := make([]%s, %s)" % (name, NUMBERS[arg.type], room), "var %sCount C.size_t" % name]
        self.again.append("%s = make([]%s, int(%sCount))" % (name, NUMBERS[arg.type], name))
        self.call.append("(*C.%s)(first(%s)), C.size_t(len(%s)), &%sCount" % (C_NUMBERS[arg.type], name, name, name))
        self.results.append((name, "[]" + NUMBERS[arg.type], "%s[:int(%sCount)]" % (name, name)))

    def add_beside(self, arg):
        name, base = self.name(arg), self.go.argument(arg.base)
        counted = next(a for a in self.fn.args if a.name == arg.base).kind == "array"
        self.before.append("@%s := make([]%s, len(%s))" % (name, NUMBERS[arg.type], base))
        if counted:
            self.again.append("%s = make([]%s, len(%s))" % (name, NUMBERS[arg.type], base))
        self.call.append("(*C.%s)(first(%s))" % (C_NUMBERS[arg.type], name))
        self.results.append((name, "[]" + NUMBERS[arg.type], "%s[:int(%sCount)]" % (name, base) if counted else name))

    def add_buffer(self, arg):
        name = self.name(arg)
        is_text = self.fn.name != "token_bytes"
        self.before += ["%s := takeScratch()" % name, "defer giveScratch(%s)" % name]
        self.failure = name + ".failure"
        self.again.append("%s.grow()" % name)
        self.call.append("(*C.char)(first(%s.bytes)), C.size_t(len(%s.bytes)), &%s.length" % (name, name, name))
        if is_text:
            self.results.append(("text", "string", "string(%s.text())" % name))
        else:
            self.results.append(("bytes", "[]byte", "append([]byte(nil), %s.text()...)" % name))

    def add_string(self, arg):
        name = self.name(arg)
        self.before += ["var %s *C.char" % name, "var %sLen C.size_t" % name]
        self.call.append("&%s, &%sLen" % (name, name))
        self.results.append(("text", "string", "takeText(%s, %sLen)" % (name, name)))

    def add_new(self, arg):
        name, made = self.name(arg), self.go.handle(arg.type)
        self.before.append("var %s *C.nbl_%s" % (name, arg.type))
        self.call.append("&" + name)
        self.results.append((arg.type, "*" + made, "new%s(%s)" % (made, name)))

    def add_number(self, arg):
        name = self.name(arg)
        kind = "time.Duration" if arg.name.endswith("_ms") else self.number_type(arg)
        self.params.append("%s %s" % (name, kind))
        value = "milliseconds(%s)" % name if arg.name.endswith("_ms") else "C.%s(%s)" % (C_NUMBERS[arg.type], name)
        self.call.append(value)

    def number_type(self, arg):
        flags = language.flags(self.fn, self.go.api) if arg.name == "flags" else None
        if flags:
            return BLOCK_TYPES[flags["prefix"]]
        if arg.name == "level":
            return "LogLevel"
        whole = arg.type in ("i32", "i64") and arg.name != "value"
        return "int" if whole else NUMBERS[arg.type]

    def add_out(self, arg):
        name, native = self.name(arg), "native" + pascal(arg.name)
        self.before.append("var %s C.%s" % (native, C_NUMBERS[arg.type]))
        self.call.append("&" + native)
        kind = self.number_type(arg)
        self.results.append((name, kind, "%s(%s)" % (kind, native)))

    def zeros(self):
        zero = {"string": '""', "bool": "false"}
        return [zero.get(kind, "nil" if kind[0] in "*[" else "0") for _, kind, _ in self.results]

    def code(self, name, doc):
        fn = self.fn
        receiver = self.go.receiver(fn)
        kinds = [kind for _, kind, _ in self.results] + ["error"]
        if len(kinds) > 2:  # several results say by their name which is which
            kinds = ["%s %s" % (n, k) for n, k, _ in self.results] + ["err error"]
        result = " " + (kinds[0] if len(kinds) == 1 else "(%s)" % ", ".join(kinds))
        named = len(kinds) > 2
        out = comment(name, doc)
        target = "(%s *%s) " % (fn.self_arg.name, self.go.handle(receiver)) if receiver else ""
        out += "func %s%s(%s)%s {\n" % (target, name, ", ".join(self.params), result)
        lines = list(self.before)
        if not receiver:
            lines = ["if err := checkLibrary(); err != nil {", "\treturn @err", "}"] + lines
        failure = self.failure
        lines.append("var failure *C.nbl_error" if failure == "failure" else failure + " = nil")
        call = "C.nbl_%s(%s)" % (fn.name, ", ".join(self.call + ["&" + failure]))
        if self.again:
            lines += ["var status C.nbl_status", "for {", "\tstatus = " + call, "\tif status != C.NBL_E_BUFFER {", "\t\tbreak", "\t}",
                      "\tC.nbl_error_release(%s)" % failure, "\t%s = nil" % failure] + ["\t" + line for line in self.again] + ["}"]
        else:
            lines.append("status := " + call)
        if not self.results:
            lines.append("return check(status, %s)" % failure)
        else:
            lines += ["if err := check(status, %s); err != nil {" % failure, "\treturn @err", "}"]
            lines.append("return %s" % ", ".join([expression for _, _, expression in self.results] + ["nil"]))
        zeros = "".join(zero + ", " for zero in self.zeros())
        for line in lines:
            if line.startswith("@"):  # a result, declared already where results have names
                line = line[1:].replace(" := ", " = " if named else " := ", 1)
            out += "\t" + line.replace("return @", "return " + zeros) + "\n"
        return out + "}\n"


def plain(go, fn):
    """A function that cannot fail and is no release."""
    receiver = go.receiver(fn)
    name = go.method(fn)
    body = Body.__new__(Body)
    body.go, body.fn = go, fn
    params, call = [], []
    for arg in fn.args:
        if arg is fn.self_arg:
            continue
        kind = body.number_type(arg)
        params.append("%s %s" % (go.argument(arg.name), kind))
        call.append("C.%s(%s)" % (C_NUMBERS[arg.type], go.argument(arg.name)))
    returns = {"void": "", "cstr": " string", "i32": " int", "u32": " uint32", "option": " Option", "status": " Code"}[fn.returns]
    out = comment(name, go.doc(fn.doc.replace(" NULL is fine.", "")))
    target = "(%s *%s) " % (fn.self_arg.name, go.handle(receiver)) if receiver else ""
    out += "func %s%s(%s)%s {\n" % (target, name, ", ".join(params), returns)
    if receiver:
        out += "\tnative, err := %s.hold()\n\tif err != nil {\n\t\treturn\n\t}\n\tdefer %s.drop()\n" % (fn.self_arg.name, fn.self_arg.name)
        call = ["native"] + call
    call = "C.nbl_%s(%s)" % (fn.name, ", ".join(call))
    wrap = {"void": "%s", "cstr": "return C.GoString(%s)", "i32": "return int(%s)", "u32": "return uint32(%s)", "option": "return Option(%s)",
            "status": "return Code(%s)"}[fn.returns]
    return out + "\t" + wrap % call + "\n}\n"


def handle_type(go, handle, fns):
    """The type, its maker and the pieces that every method begins with."""
    name, made = handle["name"], go.handle(handle["name"])
    release = next(fn for fn in fns if fn.release)
    letter = release.args[0].name
    cancel = next((fn for fn in fns if fn.name == name + "_cancel"), None)
    fields = {"config": [["err", "error // the first option that was refused"]], "session": [["stream", "stream"]]}.get(name, [])
    out = comment(made, handle["doc"].rstrip(".")[0].lower() + handle["doc"][1:]).replace(made + ": ", made + " is ")
    out += "//\n" + "".join("// %s\n" % line for line in THREADS[name].split("\n"))
    out += "type %s struct {\n%s}\n\n" % (made, aligned([["ref", "*ref"]] + fields))
    out += "func new%s(native *C.nbl_%s) *%s {\n\tref := &ref{\n\t\tpointer: unsafe.Pointer(native),\n" % (made, name, made)
    out += "\t\tfree:    func(p unsafe.Pointer) { C.nbl_%s((*C.nbl_%s)(p)) },\n" % (release.name, name)
    if cancel:
        out += "\t\tcancel:  func(p unsafe.Pointer) { C.nbl_%s((*C.nbl_%s)(p)) },\n" % (cancel.name, name)
    out += "\t}\n\t%s := &%s{ref: ref}\n" % (letter, made)
    # A job's release waits for its end, and finalizers must not.
    finalizer = "func(%s *%s) { go %s.ref.close() }" % (letter, made, letter) if name == "job" else "func(%s *%s) { %s.ref.close() }" % (letter, made, letter)
    out += "\truntime.SetFinalizer(%s, %s)\n\treturn %s\n}\n\n" % (letter, finalizer, letter)
    sticky = "\tif %s.ref == nil && %s.err != nil {\n\t\treturn nil, %s.err\n\t}\n" % (letter, letter, letter) if name == "config" else ""
    out += """func (%(l)s *%(M)s) hold() (*C.nbl_%(n)s, error) {
	if %(l)s == nil {
		return nil, nil
	}
%(sticky)s	pointer, err := %(l)s.ref.hold("%(n)s")
	return (*C.nbl_%(n)s)(pointer), err
}

func (%(l)s *%(M)s) drop() {
	if %(l)s != nil {
		%(l)s.ref.drop()
	}
}

""" % {"l": letter, "M": made, "n": name, "sticky": sticky}
    out += comment("Close", {
        "session": "Releases the session, at once or when the call that is running has ended; that call is cancelled. Closing twice does nothing.",
        "job": "Releases the job: cancels it if it runs and waits for its end. Closing twice does nothing."}.get(
            name, "Releases the %s, at once or when the calls that are running have ended. Closing twice does nothing." % name)).replace("Close: r", "Close r")
    if name == "model":
        out = out.rstrip("\n") + "\n// Sessions, batches and jobs keep what they need of the model: the order does not matter.\n"
    out += "func (%s *%s) Close() error {\n\tif %s != nil && %s.ref != nil {\n" % (letter, made, letter, letter)
    out += "\t\truntime.SetFinalizer(%s, nil)\n\t\t%s.ref.close()\n\t}\n\treturn nil\n}\n" % (letter, letter)
    return out


def functions(go):
    api = go.api
    out = BANNER + "package nibble\n\n// #include <nibble.h>\nimport \"C\"\n\nimport (\n\t\"runtime\"\n\t\"time\"\n\t\"unsafe\"\n)\n"
    groups = {"": []}
    for fn in api.fns:
        if not go.function(fn) or fn.group == "error" or fn.name == "status_name":
            continue
        groups.setdefault(go.receiver(fn), []).append(fn)
    for handle in [None] + api.handles:
        name = handle["name"] if handle else ""
        if name == "error":
            continue
        if handle:
            out += "\n" + handle_type(go, handle, groups[name])
        for fn in groups[name]:
            if fn.release:
                continue
            if fn.name == "config_create":
                out += "\n" + NEW_CONFIG
            elif fn.fallible:
                doc = go.doc(fn.doc.replace(" NULL is fine.", ""))
                if fn.name in language.POSITIVE:
                    code = language.POSITIVE[fn.name]
                    doc = doc.replace(go.status(code), "ok is false")
                doc = re.sub(r" ?%s [^.;]*(?:[.;]|$)" % go.status("E_BUFFER"), "", doc).strip()
                out += "\n" + Body(go, fn).code(go.method(fn), doc)
            else:
                out += "\n" + plain(go, fn)
    return out


NEW_CONFIG = """// NewConfig makes an empty bag: every option has its default. Options that are refused later are told by Err, and by
// whatever takes the Config.
func NewConfig() *Config {
	if err := checkLibrary(); err != nil {
		return &Config{err: err}
	}
	var out *C.nbl_config
	var failure *C.nbl_error
	if err := check(C.nbl_config_create(&out, &failure), failure); err != nil {
		return &Config{err: err}
	}
	return newConfig(out)
}
"""
