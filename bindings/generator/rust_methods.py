"""bindings/rust/src/generated: a type for each handle, and a method for each function, option and property.

The roles of the arguments decide the signature and the body: a text is a &str, a caller's array a Vec, a new handle a value
that drops itself. What the bodies share is src/support.rs, by hand.
"""
import re

from generator import language, rust
from generator.language import pascal, snake
from generator.rust import BANNER, BLOCKS, NAMES, identifier, rustdoc
from generator.rust_examples import EXAMPLES

NUMBERS = {"i32": "i32", "i64": "i64", "u32": "u32", "u64": "u64", "f32": "f32", "f64": "f64", "size": "usize", "option": "OptionId",
           "prop": "Prop", "token": "TokenId", "status": "i32"}
SHARED = ("model", "job")                   # Sync: what a shared reference reaches may be concurrent, or the library refuses it
EXCLUSIVE = ("model_move",)                 # changes what the other methods read, so that the compiler keeps them apart
CANCELLED = ("session", "job")              # handles with a CancelHandle
RECORDS = {"session_next": "Token", "log_next": "LogLine"}  # functions that give numbers beside a text
BYTES = ("token_bytes",)                    # caller's buffers that need not be UTF-8


class Method:
    """One function as a method: parameters, what comes before the call, the arguments of the call, the results."""

    def __init__(self, fn, names, api):
        self.fn, self.names, self.api = fn, names, api
        self.params, self.before, self.call = [], [], []
        self.owner = names.type_of(fn)
        self.makes = next((arg.type for arg in fn.args if arg.kind == "new"), "")
        self.is_new = fn.name == self.makes + "_create"
        self.receiver = ""
        self.flags = language.flags(fn, api)
        for arg in fn.args:
            getattr(self, "take_" + arg.kind)(arg)
        # A handle, even a config, is there only after the check; build_info tells what was found, whatever it is.
        if fn.fallible and not self.kinds("handle") and fn.name != "build_info":
            self.before.insert(0, "support::ready()?;")

    def take_handle(self, arg):
        if arg is self.fn.args[0] and not self.is_new:
            changes = self.fn.thread == "own" and not arg.const or self.fn.name in EXCLUSIVE
            self.receiver = "&mut self" if changes else "&self"
            if arg.type == "config":
                self.before.append("let config = self.handle()?;")
            self.call.append("config" if arg.type == "config" else "self.raw.as_ptr()")
            return
        name = NAMES.get(arg.name, arg.name)
        self.params.append("%s: &%s" % (name, pascal(arg.type)))
        if arg.type == "config":
            self.before.append("let %s = %s.handle()?;" % (name, name))
            self.call.append(name)
        else:
            self.call.append(name + ".raw.as_ptr()")

    def take_text(self, arg):
        name = identifier(arg.name)
        if arg.name == "dir":
            self.params.append("dir: impl AsRef<Path>")
            self.before.append("let dir = support::path(dir.as_ref())?;")
        elif "chat" in self.fn.name:
            self.params.append("chat: &Chat")
            self.before.append("let %s = chat.to_json();" % name)
        else:
            self.params.append("%s: &str" % name)
        self.call += [name + ".as_ptr().cast()", name + ".len()"]

    def take_in(self, arg):
        self.params.append("%s: &[%s]" % (identifier(arg.name), NUMBERS[arg.type]))
        self.call += [arg.name + ".as_ptr()", arg.name + ".len()"]

    def take_same(self, arg):
        self.params.append("%s: &[%s]" % (identifier(arg.name), NUMBERS[arg.type]))
        self.before.append('support::same_length(("%s", %s.len()), ("%s", %s.len()))?;' % (arg.base, arg.base, arg.name, arg.name))
        self.call.append(arg.name + ".as_ptr()")

    def take_number(self, arg):
        name = identifier(arg.name)
        if arg.name == "flags" and self.flags:
            self.params.append("flags: " + BLOCKS[self.flags["prefix"]])
            self.call.append("flags.0")
        elif arg.name == "timeout_ms":
            self.params.append("timeout: Option<Duration>")
            self.call.append("support::milliseconds(timeout)")
        elif arg.name == "level":
            self.params.append("level: LogLevel")
            self.call.append("level.number()")
        elif arg.name == "device" and self.fn.group == "device":
            self.receiver = "self"
            self.call.append("self.0")
        elif arg.name == "device":
            self.params.append("device: Device")
            self.call.append("device.0")
        else:
            self.params.append("%s: %s" % (name, NUMBERS[arg.type]))
            self.call.append(name + ".0" if arg.type in ("option", "prop") else name)

    def take_out(self, arg):
        self.call.append("&mut " + identifier(arg.name))

    def take_new(self, arg):
        self.call.append("out")

    def take_string(self, arg):
        self.call += ["out", "out_len"]

    def take_buffer(self, arg):
        self.call += ["buf", "buf_capacity", "buf_len"]

    def take_array(self, arg):
        if self.fn.name in language.CALLER_SIZED:
            self.params.append("count: usize")
        self.call += [arg.name, "capacity", "count"]

    def take_beside(self, arg):
        base = next(a for a in self.fn.args if a.name == arg.base)
        self.call.append(arg.name if base.kind == "array" else arg.name + ".as_mut_ptr()")

    def kinds(self, *kinds):
        return [arg for arg in self.fn.args if arg.kind in kinds]

    def unsafe_call(self, error="err"):
        return "unsafe { sys::nbl_%s(%s) }" % (self.fn.name, ", ".join(self.call + ([error] if self.fn.fallible else [])))

    def is_optional(self):
        return self.fn.name in language.POSITIVE

    def body(self):
        """(the result's type, the lines)"""
        fn, outs = self.fn, self.kinds("out")
        lines = list(self.before)
        lines += ["let mut %s = Default::default();" % identifier(arg.name) for arg in outs]
        if not fn.fallible:
            return self.plain_body(lines)
        if self.makes:
            made = pascal(self.makes)
            lines.append("support::new_handle(|out, err| %s).map(%s::adopt)" % (self.unsafe_call(), made))
            return "Result<%s>" % ("Self" if made == self.owner else made), lines
        if self.kinds("string"):
            lines.append("support::owned_text(|out, out_len, err| %s)" % self.unsafe_call())
            return "Result<String>", lines
        if self.kinds("buffer"):
            return self.buffer_body(lines, outs)
        if self.kinds("array"):
            return self.array_body(lines)
        beside = self.kinds("beside")
        lines += ["let mut %s = support::zeros(%s.len())?;" % (arg.name, arg.base) for arg in beside]
        call = "support::check(|err| %s)?" % self.unsafe_call()
        if self.is_optional():
            return "Result<bool>", lines + ["Ok(%s == sys::NBL_OK)" % call]
        results = [(identifier(arg.name), NUMBERS[arg.type]) for arg in outs] + [(arg.name, "Vec<%s>" % NUMBERS[arg.type]) for arg in beside]
        kind, value = (results[0][1], results[0][0]) if len(results) == 1 else (
            "(%s)" % ", ".join(r[1] for r in results), "(%s)" % ", ".join(r[0] for r in results))
        return "Result<%s>" % kind, lines + [call + ";", "Ok(%s)" % value]

    def buffer_body(self, lines, outs):
        reader = "bytes" if self.fn.name in BYTES else "text"
        call = "support::%s(|buf, buf_capacity, buf_len, err| %s)?" % (reader, self.unsafe_call())
        if self.fn.name in RECORDS:
            record = RECORDS[self.fn.name]
            fields = "".join("%s, " % (arg.name if arg.name != "level" else "level: LogLevel::from_number(level)") for arg in outs)
            lines.append("let (status, text) = %s;" % call)
            lines.append("Ok(if status == sys::NBL_OK { Some(%s { %stext }) } else { None })" % (record, fields))
            return "Result<Option<%s>>" % record, lines
        return "Result<%s>" % ("Vec<u8>" if reader == "bytes" else "String"), lines + ["Ok(%s.1)" % call]

    def array_body(self, lines):
        arrays = self.kinds("array", "beside")
        names = [arg.name for arg in arrays]
        slots = names + ["_: *mut ()", "_: *mut ()"][:3 - len(names)]
        text = next((identifier(arg.name) for arg in self.fn.args if arg.kind == "text"), "")
        # The first capacity: a text has fewer tokens than bytes; of anything else the library tells how much there is.
        guess = "count" if self.fn.name in language.CALLER_SIZED else text + ".len() + 16" if text else "0"
        call = "support::arrays(%s, |%s, capacity, count, err| %s)" % (guess, ", ".join(slots), self.unsafe_call())
        kinds = [NUMBERS[arg.type] for arg in arrays]
        if len(arrays) == 1:
            return "Result<Vec<%s>>" % kinds[0], lines + ["Ok(%s?.0)" % call]
        pattern = ", ".join(names + ["_"] * (3 - len(names)))
        lines.append("let (%s) = %s?;" % (pattern, call))
        joined = names[0] + ".into_iter()" + "".join(".zip(%s)" % name for name in names[1:])
        if len(names) == 3:
            joined += ".map(|((a, b), c)| (a, b, c))"
        return "Result<Vec<(%s)>>" % ", ".join(kinds), lines + ["Ok(%s.collect())" % joined]

    def plain_body(self, lines):
        kind = self.fn.returns
        call = self.unsafe_call()
        if kind == "void":
            return "", lines + [call + ";"]
        if kind == "cstr":
            return "&'static str", lines + ["// SAFETY: the text is static.", "unsafe { support::static_text(%s) }" % call[len("unsafe { "):-2]]
        if kind == "option":
            return "Option<OptionId>", lines + ["Some(%s).filter(|&id| id != 0).map(OptionId)" % call]
        return NUMBERS[kind], lines + [call]

    def text(self, indent="    "):
        kind, lines = self.body()
        doc = self.names.doc(self.fn.doc)
        if self.fn.blocks == "long":
            doc += "\n\nMay run for long" + ("; a [`CancelHandle`](crate::CancelHandle) ends it." if self.owner.lower() in CANCELLED else ".")
        if self.fn.name in EXAMPLES:
            doc += "\n\n" + EXAMPLES[self.fn.name]
        params = ", ".join(([self.receiver] if self.receiver else []) + self.params)
        out = rustdoc(doc, indent)
        out += indent + "pub fn %s(%s)%s {\n" % (rust.Rust(self.api).function(self.fn).split("::")[-1], params, " -> " + kind if kind else "")
        for index, line in enumerate(lines):
            if kind == "Result<()>" and index == len(lines) - 1:
                line = "Ok(())"
            out += indent + "    " + line + "\n"
        return out + indent + "}\n"


def value_of(option):
    """(the parameter's type, how it becomes what the setter takes)"""
    if option.kind == "bool":
        return "bool", "i64::from(value)"
    if option.values:
        return pascal(option.name), "value.as_str()"
    return {"i64": ("i64", "value"), "f64": ("f64", "value"), "str": ("&str", "value")}[option.kind]


def facts(option):
    """The sentence behind an option's description: default and range."""
    words = []
    if option.default not in (None, ""):
        words.append("default `%s`" % (str(bool(option.default)).lower() if option.kind == "bool" else option.default))
    if option.low is not None and option.kind != "bool":
        words.append("from %s to %s" % (option.low, option.high))
    return "For: %s.%s" % (option.scope, " " + ", ".join(words).capitalize() + "." if words else "")


def config_options(api, names):
    out = ""
    for option in language.options(api):
        out += rustdoc("%s\n\n%s" % (names.doc(option.doc), facts(option)), "    ")
        name = identifier(snake(option.name))
        if option.kind == "list":
            out += "    pub fn %s<T: Display>(mut self, values: impl IntoIterator<Item = T>) -> Self {\n" % name
            out += "        for value in values {\n            self = self.add_str(OptionId::%s, &value.to_string());\n        }\n        self\n    }\n\n" % option.name
            continue
        kind, value = value_of(option)
        out += "    pub fn %s(self, value: %s) -> Self {\n        self.set_%s(OptionId::%s, %s)\n    }\n\n" % (name, kind, option.stored, option.name, value)
    return out


def session_options(api, names):
    out = ""
    for option in language.options(api):
        if not option.generation:
            continue
        field = snake(option.name)
        of = names.option(option)
        if option.kind == "list":
            out += rustdoc("Adds to %s, also between two answers." % of, "    ")
            out += "    pub fn add_%s(&mut self, value: impl Display) -> Result<()> {\n        self.add_str(OptionId::%s, &value.to_string())\n    }\n\n" % (field, option.name)
        else:
            kind, value = value_of(option)
            out += rustdoc("Changes %s, also between two answers." % of, "    ")
            out += "    pub fn set_%s(&mut self, value: %s) -> Result<()> {\n        self.set_%s(OptionId::%s, %s)\n    }\n\n" % (field, kind, option.stored, option.name, value)
        out += rustdoc("Gives %s its default again." % of, "    ")
        out += "    pub fn clear_%s(&mut self) -> Result<()> {\n        self.clear(OptionId::%s)\n    }\n\n" % (field, option.name)
    return out


def properties(api, names, handle):
    out = ""
    receiver = "self" if handle == "device" else "&self"
    for row in api.props:
        words = row["of"].split()
        if words[0] != handle:
            continue
        name, get = names.prop_name(row["name"]), "self.%s(Prop::%s)" % ("text" if words[-1] == "text" else "number", row["name"])
        doc = names.doc(row["doc"])
        kind, body = "String" if words[-1] == "text" else "i64", get
        block = next((b for b in api.constants if row["doc"] == "NBL_%s_*" % b["prefix"]), None)
        if row["name"].endswith("_NS"):
            kind, body, doc = "Duration", get + ".map(|ns| Duration::from_nanos(ns.max(0) as u64))", doc.replace("nanoseconds", "time")
        elif row["name"].endswith("_TOKEN"):
            kind, body, doc = "Option<TokenId>", get + ".map(|id| i32::try_from(id).ok().filter(|&id| id >= 0))", doc.replace("-1", "`None`")
        elif block:
            kind, body = BLOCKS[block["prefix"]], get + ".map(|n| %s::from_number(n as i32))" % BLOCKS[block["prefix"]]
            doc = names.doc(block["doc"].split(":")[0] + ".")
        first = doc.split(" ")[0].rstrip(":")
        if "_" in first and "`" not in first:
            doc = doc.replace(first, "`%s`" % first, 1)
        elif words[-1] != "text":
            doc = doc[:1].upper() + doc[1:]
        out += rustdoc(doc + ("" if doc.endswith(".") else "."), "    ")
        out += "    pub fn %s(%s) -> Result<%s> {\n        %s\n    }\n\n" % (name, receiver, kind, body)
    return out


def handle_type(handle):
    """The struct, its Drop, and what it may do among threads."""
    name, raw = pascal(handle["name"]), "nbl_" + handle["name"]
    cancelled = handle["name"] in CANCELLED
    out = rustdoc(handle["doc"] + "\n\n" + EXAMPLES[handle["name"]])
    out += "pub struct %s {\n    pub(super) raw: NonNull<sys::%s>,\n%s}\n\n" % (name, raw, "    cancel: support::Canceller,\n" if cancelled else "")
    out += "// SAFETY: no function of the C API cares which thread it is called from.\nunsafe impl Send for %s {}\n" % name
    if handle["name"] in SHARED:
        out += "// SAFETY: every function that a shared reference reaches may be called concurrently.\nunsafe impl Sync for %s {}\n" % name
    out += "\nimpl %s {\n    pub(super) fn adopt(raw: NonNull<sys::%s>) -> Self {\n" % (name, raw)
    if cancelled:
        out += "        let cancel = support::Canceller::new(raw.as_ptr().cast(), |raw| unsafe { sys::%s_cancel(raw.cast()) });\n" % raw
        out += "        %s { raw, cancel }\n    }\n\n" % name
        out += "    /// A handle that ends the running call from any thread, whatever is dropped first.\n"
        out += "    pub fn cancel_handle(&self) -> CancelHandle {\n        self.cancel.handle()\n    }\n"
    else:
        out += "        %s { raw }\n    }\n" % name
    out += "}\n\nimpl Drop for %s {\n    fn drop(&mut self) {\n%s" % (name, "        self.cancel.close();\n" if cancelled else "")
    out += "        // SAFETY: the handle is ours, and this is its only release.\n        unsafe { sys::%s_release(self.raw.as_ptr()) }\n    }\n}\n\n" % raw
    return out + debug(name)


def debug(name):
    return ("impl std::fmt::Debug for %s {\n    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {\n"
            "        f.write_str(\"%s\")\n    }\n}\n\n" % (name, name))


SAFETY = """//!
//! SAFETY of the calls: a handle lives as long as the value that holds it, pointers and lengths are those of slices that are
//! borrowed during the call, and what a function may not do at the same time as another for one handle takes `&mut self` or
//! belongs to a type that is not `Sync`.
"""

CONFIG = '''
/// A bag of typed options for loading, sessions, batches and measurements.
///
/// Every method gives the bag back, so that a configuration is one expression. A value that an option refuses is told by the
/// call that the bag is given to, or by [`Config::check`].
///
/// ```
/// use nibble::{Config, ErrorKind, KvDtype};
/// let config = Config::new().device("cpu").context(256).kv_dtype(KvDtype::F32).stop(["\\n\\n"]);
/// config.check()?;
/// assert_eq!(Config::new().top_p(7.0).check().unwrap_err().kind(), ErrorKind::OptionValue);
/// # nibble::Result::Ok(())
/// ```
pub struct Config {
    /// Or the first thing that went wrong.
    raw: Result<NonNull<sys::nbl_config>>,
}

// SAFETY: no function of the C API cares which thread it is called from.
unsafe impl Send for Config {}
// SAFETY: a shared reference only reads, and the library refuses what may not be concurrent.
unsafe impl Sync for Config {}

impl Config {
    /// An empty bag: every option has its default.
    pub fn new() -> Self {
        Config { raw: support::ready().and_then(|()| support::new_handle(|out, err| unsafe { sys::nbl_config_create(out, err) })) }
    }

    /// Whether every value was taken.
    pub fn check(&self) -> Result<()> {
        self.handle().map(|_| ())
    }

    pub(super) fn handle(&self) -> Result<*mut sys::nbl_config> {
        match &self.raw {
            Ok(raw) => Ok(raw.as_ptr()),
            Err(error) => Err(error.clone()),
        }
    }

    /// One more setting, unless an earlier one has failed.
    fn set(mut self, call: impl FnOnce(*mut sys::nbl_config, *mut *mut sys::nbl_error) -> sys::nbl_status) -> Self {
        let result = self.handle().and_then(|raw| support::check(|err| call(raw, err)));
        if let Err(error) = result {
            self.release();
            self.raw = Err(error);
        }
        self
    }

    fn release(&mut self) {
        if let Ok(raw) = &self.raw {
            // SAFETY: the handle is ours; after this it is dropped or replaced.
            unsafe { sys::nbl_config_release(raw.as_ptr()) }
        }
    }

'''


def setter(fn, names):
    """A function that sets something in a config, as a builder's method."""
    method = Method(fn, names, names.api)
    out = rustdoc(names.doc(fn.doc), "    ")
    out += "    pub fn %s(self, %s) -> Self {\n" % (names.bare(fn), ", ".join(method.params))
    call = "sys::nbl_%s(%s)" % (fn.name, ", ".join(["raw"] + method.call[1:] + ["err"]))
    return out + "        self.set(|raw, err| unsafe { %s })\n    }\n\n" % call


def config(api, names, fns):
    out = CONFIG.lstrip("\n")
    for fn in fns:
        if fn.self_arg and not fn.release and not fn.self_arg.const:
            out += setter(fn, names)
        elif fn.self_arg and not fn.release:
            out += Method(fn, names, api).text() + "\n"
    out += config_options(api, names)
    out = out.rstrip("\n") + "\n}\n\nimpl Default for Config {\n    fn default() -> Self {\n        Config::new()\n    }\n}\n\n"
    return out + "impl Drop for Config {\n    fn drop(&mut self) {\n        self.release();\n    }\n}\n\n" + debug("Config")


STREAM = '''
/// The tokens of a running generation, as [`Session::begin`] starts it; after an error, and after the last token, `None`.
pub struct Stream<'a> {
    session: &'a mut Session,
    ended: bool,
}

impl Stream<'_> {
    /// The session, for what else it tells between two tokens.
    pub fn session(&mut self) -> &mut Session {
        self.session
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        if self.ended {
            return None;
        }
        let result = self.session.next_token().transpose();
        self.ended = !matches!(result, Some(Ok(_)));
        result
    }
}

impl std::iter::FusedIterator for Stream<'_> {}
'''

RECORD_TYPES = {
    "session": '''
/// One generated token, and the text that it completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id in the model's vocabulary.
    pub id: TokenId,
    /// Whole characters only; often empty.
    pub text: String,
}
''',
    "": '''
/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How grave it is.
    pub level: LogLevel,
    /// What it says, without a line break.
    pub text: String,
}
'''}


def begin(fn, names):
    """session_begin gives the stream; stream() is its other half, for a generation that a batch drives."""
    method = Method(fn, names, names.api)
    _, lines = method.body()
    out = rustdoc(names.doc(fn.doc) + "\n\n" + EXAMPLES[fn.name], "    ")
    out += "    pub fn begin(&mut self, %s) -> Result<Stream<'_>> {\n" % ", ".join(method.params)
    out += "".join("        %s\n" % line for line in lines[:-1]) + "        Ok(self.stream())\n    }\n\n"
    out += rustdoc("The rest of the running generation, as after [`Session::begin`].", "    ")
    return out + "    pub fn stream(&mut self) -> Stream<'_> {\n        Stream { session: self, ended: false }\n    }\n"


def methods(api, names, fns, indent="    "):
    out = []
    for fn in fns:
        if fn.name in language.HIDDEN or fn.release or fn.group == "error":
            continue
        out.append(begin(fn, names) if fn.name == "session_begin" else Method(fn, names, api).text(indent))
    return out


def imports(body, known):
    """The `use` lines that a file needs: known are the crate's types that it does not define itself."""
    code = "\n".join(line for line in body.split("\n") if not line.strip().startswith("//"))
    words = set(re.findall(r"(?<!::)\b[A-Z]\w+", code))
    lines = ["use %s::%s;" % (module, name) for module, name in (
        ("std::fmt", "Display"), ("std::path", "Path"), ("std::ptr", "NonNull"), ("std::time", "Duration")) if name in words]
    lines += ["use crate::{%s};" % ", ".join(sorted(words & known))] * bool(words & known)
    return "\n".join(lines) + "\nuse crate::{support, sys};\n\n"


def outputs(api):
    names = rust.Linked(api)
    groups = language.by_owner(api)
    handles = {row["name"]: row for row in api.handles}
    types = {"Error", "Result", "Chat", "TokenId", "CancelHandle", "Prop", "OptionId", *BLOCKS.values(), *map(pascal, handles)}
    types.update(pascal(option.name) for option in language.options(api) if option.values)
    files = {}

    def add(name, doc, body, own):
        text = BANNER + "//! " + doc + "\n" + SAFETY + imports(body, types - set(own)) + body.rstrip("\n") + "\n"
        files["bindings/rust/src/generated/%s.rs" % name] = text

    add("config", "Options: [`Config`].", config(api, names, groups["config"]), ("Config",))
    for name in ("model", "session", "batch", "job"):
        body = "\n".join(methods(api, names, groups[name])) + "\n"
        if name == "session":
            body += session_options(api, names)
        body += properties(api, names, name)
        own = (pascal(name), "Token", "Stream")
        text = handle_type(handles[name]) + "impl %s {\n%s\n}\n" % (pascal(name), body.rstrip("\n"))
        text += (RECORD_TYPES["session"] + STREAM) if name == "session" else ""
        add(name, "[`%s`]." % pascal(name), text, own)
    devices = [fn for fn in groups[""] if fn.group == "device"]
    rest = [fn for fn in groups[""] if fn.group != "device"]
    library = "\n".join(methods(api, names, rest, indent=""))
    files_body = "\n".join(methods(api, names, devices)) + "\n" + properties(api, names, "device")
    body = RECORD_TYPES[""].lstrip("\n") + "\n" + library + "\nimpl Device {\n" + files_body.rstrip("\n") + "\n}\n"
    add("library", "The library itself, its log, its options by number, and the devices.", body, ("LogLine",))
    modules = sorted(path.rsplit("/", 1)[1][:-3] for path in files) + ["codes"]
    text = BANNER + "//! The safe layer: a type for each handle, a method for each function, option and property.\n"
    text += "".join("mod %s;\n" % module for module in sorted(modules)) + "pub mod sys;\n\n"
    text += "".join("pub use %s::*;\n" % module for module in sorted(modules))
    files["bindings/rust/src/generated/mod.rs"] = text
    return files
