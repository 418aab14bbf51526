"""One function of the spec as a method of the C# binding: its signature, its body, its asynchronous form.

The body is always of one shape: texts become UTF-8, handles are held (Lease) and arrays pinned (fixed) for the time of the
call; the call is made, again with a larger buffer where the library asks for one; a failure is thrown; outputs are given.
"""
import re

from generator.csharp_names import PROPERTIES, comment
from generator.language import CALLER_SIZED, HIDDEN, POSITIVE, camel, flags, pascal

NUMBERS = {"i32": "int", "i64": "long", "u32": "uint", "u64": "ulong", "f32": "float", "f64": "double", "size": "UIntPtr", "token": "int",
           "option": "Option", "prop": "Prop", "status": "Status"}
SHOWN = {"ulong": "long"}                       # what users get: counts and offsets fit
DEFAULTS = {"max_tokens": "-1", "timeout_ms": "-1"}  # below zero: no limit
FIELD_NAMES = {"ids": "id", "logprobs": "log_probability"}
FIELD_DOCS = {"ids": "The token.", "begin": "The offset of its first byte in the text's UTF-8.", "end": "The offset behind its last byte.",
              "logprobs": "The natural logarithm of its probability.", "done": "What is done of it.",
              "total": "What there is to do; 0 while that is not known."}
BYTES = ("token_bytes",)                        # buffers that need not be text
ROWS = {"tokenize_spans": "TokenSpan", "session_top": "TokenProbability"}  # parallel arrays become rows
GROUPS = {"job_progress": "JobProgress"}        # several numbers become one structure
NAMED = {"buf": "text", "out": "result", "f": "from"}
NO_ASYNC = ("log_next", "session_next")         # StreamAsync is better
STACK_BYTES = 256                               # a token's text nearly always fits


class Method:
    def __init__(self, fn, api, cs):
        self.fn, self.api, self.cs = fn, api, cs
        self.flags = flags(fn, api)
        self.made = next((arg.type for arg in fn.args if arg.kind == "new"), "")
        self.constructs = fn.name == self.made + "_create"
        self.on_device = fn.group == "device" and bool(fn.args) and fn.args[0].name == "device"
        self.instance = self.on_device or (fn.self_arg is not None and not self.constructs)
        self.positive = POSITIVE.get(fn.name)
        self.array = next((a for a in fn.args if a.kind == "array"), None)
        self.buffer = next((a for a in fn.args if a.kind == "buffer"), None)
        self.retried = self.buffer is not None or (self.array is not None and fn.name not in CALLER_SIZED)
        self.cancels = fn.self_arg is not None and fn.name == fn.self_arg.type + "_cancel"
        self.params = self.parameters()
        self.has_async = fn.blocks == "long" and fn.fallible and fn.name not in NO_ASYNC + HIDDEN

    # ---- the signature

    def name_of(self, arg):
        if arg.kind == "handle":
            return arg.type
        return self.cs.argument(NAMED.get(arg.name, arg.name))

    def type_of(self, arg):
        if arg.name == "flags" and self.flags:
            return self.cs.constants(self.flags)
        if arg.name == "level":
            return "LogLevel"
        return NUMBERS[arg.type]

    def is_self(self, index):
        return self.instance and index == 0

    def parameters(self):
        """(type, name, default or "") in the order of the C function, those with a default last."""
        rows = []
        for index, arg in enumerate(self.fn.args):
            if self.is_self(index):
                continue
            name = self.name_of(arg)
            if arg.kind == "handle":
                rows.append((self.cs.handle(arg.type), name, "null" if arg.nullable else ""))
            elif arg.kind == "text":
                rows.append(("string", name, ""))
            elif arg.kind in ("in", "same"):
                rows.append((NUMBERS[arg.type] + "[]", name, ""))
            elif arg.kind == "number":
                rows.append((self.type_of(arg), name, DEFAULTS.get(arg.name, "")))
            elif arg.kind == "array" and self.fn.name in CALLER_SIZED:
                rows.append(("int", "count", ""))
        return [r for r in rows if not r[2]] + [r for r in rows if r[2]]

    def results(self):
        """(type, expression) of everything that the function gives."""
        rows = []
        for arg in self.fn.args:
            name = self.name_of(arg)
            if arg.kind == "out":
                kind = self.type_of(arg)
                shown = SHOWN.get(kind, kind)
                rows.append((shown, name, name + "Value" if shown == kind and kind != "LogLevel" else "(%s)%sValue" % (shown, name)))
            elif arg.kind == "buffer":
                rows.append(("byte[]", name, "Text.Copy(%sPointer, %sLength)" % (name, name)) if self.fn.name in BYTES else
                            ("string", name, "Text.From(%sPointer, %sLength)" % (name, name)))
            elif arg.kind == "string":
                rows.append(("string", name, "Text.Take(%sText, %sLength)" % (name, name)))
            elif arg.kind == "new":
                kind = self.cs.handle(arg.type)
                rows.append((kind, name, "new %s(%sCreated)" % (kind, name)))
            elif arg.kind == "array":
                rows.append((ROWS.get(self.fn.name, NUMBERS[arg.type]) + "[]", name, name + "Array"))
            elif arg.kind == "beside" and not self.array:
                rows.append((NUMBERS[arg.type] + "[]", name, name + "Array"))
        return rows

    @property
    def returned(self):
        results = self.results()
        if self.positive:
            return "bool"
        if self.fn.returns != "result":
            return {"cstr": "string", "void": "void"}.get(self.fn.returns, NUMBERS.get(self.fn.returns, ""))
        return GROUPS.get(self.fn.name) or (results[0][0] if len(results) == 1 else "void")

    @property
    def outs(self):
        """Results that are out parameters: all of them beside a bool, or where there are several."""
        results = self.results()
        return results if self.positive or (len(results) > 1 and self.fn.name not in GROUPS) else []

    def signature(self):
        params = ["%s %s" % (t, n) for t, n, d in self.params if not d] + ["out %s %s" % (t, n) for t, n, _ in self.outs]
        params += ["%s %s = %s" % p for p in self.params if p[2]]
        static = "" if self.instance else "static "
        if self.constructs:
            names = ", ".join(n for _, n, _ in self.params)
            doc = self.doc()
            return "%s        public %s(%s) : this(Create(%s)) { }\n\n        private static unsafe IntPtr Create(%s)\n" % (
                doc, self.cs.handle(self.made), ", ".join(params), names, ", ".join("%s %s" % (t, n) for t, n, _ in self.params))
        unsafe = "" if self.body_is_managed() else "unsafe "
        head = "%s        public %s%s%s %s" % (self.doc(), static, unsafe, self.returned, self.cs.member(self.fn))
        return head + ("\n" if self.fn.name in PROPERTIES else "(%s)\n" % ", ".join(params))

    def doc(self):
        text = self.fn.doc
        text = re.sub(r" ?BUFFER [^.]*\.", "", text)        # the method grows its buffer
        text = re.sub(r" ?NULL is fine\.", "", text).strip()
        if self.positive:
            for word, truth in ((self.positive, "false"), ("OK", "true")):
                text = re.sub(r"(^|[.] )%s\b" % word, lambda m: m[1] + truth.capitalize(), text)
                text = re.sub(r"\b%s\b" % word, truth, text)
        text = text.replace("returns CANCELLED", "throws OperationCanceledException").replace(", also in a signal handler", "")
        if self.fn.name == "tokenize_spans":
            text += " Offsets count bytes of UTF-8."
        return self.cs.xml(text, "        ")

    def body_is_managed(self):
        return self.fn.returns in ("void", "i32", "u32", "status", "option") and all(a.kind in ("handle", "number") for a in self.fn.args)

    # ---- the body

    def arguments(self):
        """Expressions for the native call, in order."""
        out = []
        for index, arg in enumerate(self.fn.args):
            name = self.name_of(arg)
            if arg.kind == "handle":
                out.append(name + "Lease.Pointer")
            elif arg.kind == "text":
                out += [name + "Pointer", "(UIntPtr)%sBytes.Length" % name]
            elif arg.kind == "in":
                out += [name + "Pointer", "(UIntPtr)%s.Length" % name]
            elif arg.kind in ("same", "beside"):
                out.append(name + "Pointer")
            elif arg.kind == "array":
                out += [name + "Pointer", "(UIntPtr)%sArray.Length" % name, "&%sCount" % name]
            elif arg.kind == "buffer":
                out += [name + "Pointer", "(UIntPtr)%sCapacity" % name, "&%sLength" % name]
            elif arg.kind == "string":
                out += ["&%sText" % name, "&%sLength" % name]
            elif arg.kind == "new":
                out.append("&%sCreated" % name)
            elif arg.kind == "number":
                kind = self.type_of(arg)
                native = {"u32": "(uint)"}.get(arg.type, "(int)")
                device = self.is_self(index)
                same = kind == NUMBERS[arg.type] and kind not in ("Option", "Prop", "Status")
                out.append("device" if device else name if same else native + name)
            elif arg.kind == "out":
                out.append("&%sValue" % name)
        return out + (["&error"] if self.fn.fallible else [])

    def text(self):
        lines = self.body()
        if self.fn.name in PROPERTIES:
            lines = ["get", "{"] + ["    " + line for line in lines] + ["}"]
        return self.signature() + "        {\n" + "".join("            %s\n" % line if line else "\n" for line in lines) + "        }\n"

    def body(self):
        lines = [] if self.instance else ["Library.Require();"]
        inner = []          # using and fixed statements
        for index, arg in enumerate(self.fn.args):
            name = self.name_of(arg)
            if arg.kind == "handle":
                own = self.is_self(index)
                if not own and not arg.nullable:
                    lines.append("if (%s == null) throw new ArgumentNullException(\"%s\");" % (name, name))
                if own and self.cancels:
                    lines.append("if (Handle.IsClosed) return;")  # the usual case, without an exception
                source = "Handle" if own else "%s.Handle" % name if not arg.nullable else "%s == null ? null : %s.Handle" % (name, name)
                inner.append("using (Lease %sLease = new Lease(%s))" % (name, source))
            elif arg.kind == "text":
                lines.append("byte[] %sBytes = Text.Bytes(%s, \"%s\");" % (name, name, name))
                inner.append("fixed (byte* %sPointer = %sBytes)" % (name, name))
            elif arg.kind == "in":
                lines.append("if (%s == null) throw new ArgumentNullException(\"%s\");" % (name, name))
                inner.append("fixed (%s* %sPointer = %s)" % (NUMBERS[arg.type], name, name))
            elif arg.kind == "same":
                lines.append("if (%s == null) throw new ArgumentNullException(\"%s\");" % (name, name))
                lines.append("if (%s.Length != %s.Length) throw new ArgumentException(\"as many as %s are needed\", \"%s\");" % (
                    name, arg.base, arg.base, name))
                inner.append("fixed (%s* %sPointer = %s)" % (NUMBERS[arg.type], name, name))
            elif arg.kind == "beside" and not self.array:
                lines.append("%s[] %sArray = new %s[%s.Length];" % (NUMBERS[arg.type], name, NUMBERS[arg.type], arg.base))
                inner.append("fixed (%s* %sPointer = %sArray)" % (NUMBERS[arg.type], name, name))
        if self.array:
            of_text = any(a.name == "text" for a in self.fn.args)
            extent = "count" if self.fn.name in CALLER_SIZED else "64 + textBytes.Length / 2" if of_text else "64"
            if self.fn.name in CALLER_SIZED:
                lines.append("if (count < 0) throw new ArgumentOutOfRangeException(\"count\");")
            for arg in self.arrays():
                lines.append("%s[] %sArray = new %s[%s];" % (NUMBERS[arg.type], self.name_of(arg), NUMBERS[arg.type], extent))
        if self.buffer:
            name = self.name_of(self.buffer)
            lines += ["byte* %sStack = stackalloc byte[%d];" % (name, STACK_BYTES), "byte[] %sHeap = null;" % name,
                      "int %sCapacity = %d;" % (name, STACK_BYTES)]
        lines += inner + (["{"] + ["    " + line for line in self.call()] + ["}"] if inner else self.call())
        if not self.cancels:
            return lines
        # Any time, also while another thread disposes of it: then there is nothing left to cancel.
        return ["try", "{"] + ["    " + line for line in lines] + ["}", "catch (ObjectDisposedException)", "{", "}"]

    def arrays(self):
        return [a for a in self.fn.args if a.kind in ("array", "beside")]

    def pins(self):
        return ["fixed (%s* %sPointer = %sArray)" % (NUMBERS[a.type], self.name_of(a), self.name_of(a)) for a in self.arrays()]

    def call(self):
        call = "Native.nbl_%s(%s)" % (self.fn.name, ", ".join(self.arguments()))
        if not self.fn.fallible:
            kind = self.returned
            if kind == "void":
                return [call + ";"]
            if self.fn.returns == "cstr":
                return ["return Text.From(%s);" % call]
            return ["return %s%s;" % ("(%s)" % kind if kind in ("Option", "Status") else "", call)]
        local = []
        for arg in self.fn.args:
            name = self.name_of(arg)
            if arg.kind == "out":
                kind = NUMBERS[arg.type]
                local.append("%s %sValue;" % ("int" if kind in ("Option", "Prop", "Status") else kind, name))
            elif arg.kind == "string":
                local += ["byte* %sText;" % name, "UIntPtr %sLength;" % name]
            elif arg.kind == "new":
                local.append("IntPtr %sCreated;" % name)
            elif arg.kind == "array":
                local.append("UIntPtr %sCount;" % name)
            elif arg.kind == "buffer":
                local.append("UIntPtr %sLength;" % name)
        local.append("IntPtr error = IntPtr.Zero;")
        if self.retried:
            return ["for (;;)", "{"] + ["    " + line for line in local + self.retry(call)] + ["}"]
        if self.array:
            return local + ["int status;"] + self.pins() + ["    status = %s;" % call] + self.finish()
        return local + ["int status = %s;" % call] + self.finish()

    def retry(self, call):
        """The call in a loop: once more with as much room as the library says is needed."""
        if self.buffer:
            name = self.name_of(self.buffer)
            lines = ["fixed (byte* %sGrown = %sHeap)" % (name, name), "{"]
            lines += ["    byte* %sPointer = %sHeap == null ? %sStack : %sGrown;" % (name, name, name, name)]
            lines += ["    int status = %s;" % call, "    if (!Errors.IsTooSmall(status, error))", "    {"]
            lines += ["        " + line for line in self.finish()]
            if not self.positive and self.returned == "void":
                lines.append("        return;")
            lines += ["    }", "}", "%sCapacity = checked((int)%sLength);" % (name, name), "%sHeap = new byte[%sCapacity];" % (name, name)]
            return lines
        name = self.name_of(self.array)
        lines = ["int status;"] + self.pins()
        lines += ["    status = %s;" % call, "if (!Errors.IsTooSmall(status, error))", "{"]
        lines += ["    " + line for line in self.finish()] + ["}"]
        for arg in self.arrays():
            lines.append("%sArray = new %s[checked((int)%sCount)];" % (self.name_of(arg), NUMBERS[arg.type], name))
        return lines

    def finish(self):
        lines = ["Errors.Check(status, error);"]
        if self.constructs:
            return lines + ["return resultCreated;"]
        if self.array:
            name = self.name_of(self.array)
            row = ROWS.get(self.fn.name)
            if not row:
                return lines + ["Array.Resize(ref %sArray, checked((int)%sCount));" % (name, name), "return %sArray;" % name]
            casts = ["(%s)" % SHOWN[NUMBERS[a.type]] if NUMBERS[a.type] in SHOWN else "" for a in self.arrays()]
            fields = ", ".join("%s%sArray[i]" % (cast, self.name_of(a)) for cast, a in zip(casts, self.arrays()))
            lines += ["%s[] rows = new %s[checked((int)%sCount)];" % (row, row, name)]
            return lines + ["for (int i = 0; i < rows.Length; ++i) rows[i] = new %s(%s);" % (row, fields), "return rows;"]
        results = self.results()
        if self.positive:
            if results:
                # Nothing was written where there is nothing more.
                lines += ["bool more = status == 0;"]
                lines += ["%s = more ? %s : %s;" % (name, expression, {"string": "\"\"", "int": "-1"}.get(kind, "default(%s)" % kind))
                          for kind, name, expression in results]
                return lines + ["return more;"]
            return lines + ["return status == 0;"]
        if self.fn.name in GROUPS:
            return lines + ["return new %s(%s);" % (GROUPS[self.fn.name], ", ".join(expression for _, _, expression in results))]
        if len(results) == 1:
            return lines + ["return %s;" % results[0][2]]
        return lines + ["%s = %s;" % (name, expression) for _, name, expression in results]

    # ---- what goes with it

    def async_text(self):
        """The same on a thread of its own, as a task."""
        token = "CancellationToken cancellationToken = default(CancellationToken)"
        params = ["%s %s%s" % (t, n, " = " + d if d else "") for t, n, d in self.params] + [token]
        names = ", ".join(n for _, n, _ in self.params)
        kind = self.returned
        member = self.cs.member(self.fn)
        start = self.cs.fns.get(self.fn.name + "_start")
        if start:
            return self.job_text(start, params)
        cancels = self.instance and self.fn.self_arg.type + "_cancel" in self.cs.fns
        doc = "The same as %s on a thread of its own. " % member
        doc += "Cancelling the token cancels the %s." % self.fn.self_arg.type if cancels else "The token is looked at before it begins."
        static, result = "" if self.instance else "static ", "" if kind == "void" else "<%s>" % kind
        out = comment(doc, "        ") + "        public %sTask%s %sAsync(%s)\n        {\n" % (static, result, member, ", ".join(params))
        cancel = "Cancel" if cancels else "null"
        return out + "            return Work.Run(() => %s(%s), %s, cancellationToken);\n        }\n" % (member, names, cancel)

    def job_text(self, start, params):
        """The asynchronous form of a function that can also run as a job: with progress, and a cancel that ends it."""
        params.insert(len(params) - 1, "IProgress<JobProgress> progress = null")
        take = self.cs.member(self.cs.fns["job_take_" + self.made])
        doc = "The same as %s on a thread of its own, with progress. Cancelling the token ends it." % self.cs.member(self.fn)
        out = comment(doc, "        ")
        out += "        public static Task<%s> %sAsync(%s)\n        {\n" % (self.returned, self.cs.member(self.fn), ", ".join(params))
        out += "            Job job = %s(%s);\n" % (self.cs.member(start), ", ".join(n for _, n, _ in self.params))
        return out + "            return Work.Run(job, job.%s, progress, cancellationToken);\n        }\n" % take

    def stream_text(self):
        """session_next as a sequence."""
        begin = Method(self.cs.fns[self.fn.self_arg.type + "_begin"], self.api, self.cs)
        params = ", ".join("%s %s = %s" % p for p in begin.params) + ", CancellationToken cancellationToken = default(CancellationToken)"
        names = ", ".join(["this"] + [n for _, n, _ in begin.params] + ["cancellationToken"])
        doc = ("Arms a generation and gives its text as it comes: whole characters, in pieces. It begins with the first piece that is "
               "asked for. The token or Cancel ends it with an OperationCanceledException; what came before stays in the session.")
        again = "The same for \"await foreach\": each piece is computed on a thread of the pool."
        form = "%s        public %s<string> %s(%s)\n        {\n            return Pieces.%s(%s);\n        }\n"
        out = form % (comment(doc, "        "), "IEnumerable", "Stream", params, "Stream", names)
        return out + "\n#if NETCOREAPP3_0_OR_GREATER || NETSTANDARD2_1_OR_GREATER\n" + \
            form % (comment(again, "        "), "IAsyncEnumerable", "StreamAsync", params, "StreamAsync", names) + "#endif\n"

    @property
    def takes_chat(self):
        return "chat" in self.fn.name and any(a.kind == "text" and a.name == "request" for a in self.fn.args)

    def chat_text(self):
        """The same with the conversation as objects."""
        member, kind = self.cs.member(self.fn), self.returned
        out = self.doc() + "        public %s %s(ChatRequest request)\n        {\n" % (kind, member)
        out += "            if (request == null) throw new ArgumentNullException(\"request\");\n"
        out += "            %s%s(request.ToJson());\n        }\n" % ("" if kind == "void" else "return ", member)
        if not self.has_async:
            return out
        text = self.async_text().replace("string request", "ChatRequest request")
        check = "            if (request == null) throw new ArgumentNullException(\"request\");\n"
        check += "            string json = request.ToJson();\n"
        text = text.replace("            return", check + "            return")
        return out + "\n" + text.replace("%s(request)" % member, "%s(json)" % member)

    def structure(self):
        """The structure that the function gives, "" where it gives none."""
        row = ROWS.get(self.fn.name) or GROUPS.get(self.fn.name)
        if not row or self.fn.name in HIDDEN:
            return ""
        given = self.arrays() or [a for a in self.fn.args if a.kind == "out"]
        fields = [(SHOWN.get(NUMBERS[a.type], NUMBERS[a.type]), a.name, pascal(FIELD_NAMES.get(a.name, a.name))) for a in given]
        doc = ("A row of what %s gives." if self.fn.name in ROWS else "What %s gives.") % self.cs.function(self.fn)
        out = comment(doc, "    ") + "    public struct %s\n    {\n" % row
        for kind, name, member in fields:
            out += comment(FIELD_DOCS[name], "        ") + "        public %s %s { get; private set; }\n\n" % (kind, member)
        out += "        internal %s(%s) : this()\n        {\n" % (row, ", ".join("%s %s" % (k, camel(n)) for k, n, _ in fields))
        return out + "".join("            %s = %s;\n" % (member, camel(name)) for _, name, member in fields) + "        }\n    }\n"
