"""include/nibble.h, the export map, and the spec as JSON."""
import json
import textwrap

from generator import spec

WIDTH = 110
GROUPS = {"library": "the library", "error": "errors", "log": "log: silent until a level is set; pull for bindings, push for C",
          "device": "devices", "config": "options", "model": "models", "session": "sessions",
          "batch": "batches", "job": "jobs and the operations that run as one"}

CONVENTIONS = """nibble.h - runs AWQ, GPTQ and bitsandbytes checkpoints of Hugging Face, on NVIDIA GPUs and on any CPU.

GENERATED from bindings/spec/nibble.toml by bindings/generate.py; do not edit.

    nbl_model *model; nbl_session *session; char *text;
    nbl_model_load("my-model", NBL_NTS, NULL, &model, NULL);
    nbl_session_create(model, NULL, &session, NULL);
    nbl_session_generate(session, "Once upon a time", NBL_NTS, 100, &text, NULL, NULL);

Conventions, the same for every function:
 - A function that can fail returns nbl_status and takes `nbl_error **err` last; err may be NULL. On failure (< 0) *err
   receives a new error that the caller releases; otherwise it is not written.
 - Handles are opaque and counted inside: releasing NULL does nothing, release never fails, and order never matters,
   for a session keeps its model alive.
 - Text in is UTF-8, `const char *` and a length in bytes, without NUL; NBL_NTS as the length means "up to the NUL". NUL
   inside a text is a character like others. Text that is not UTF-8 is NBL_E_ARGUMENT with the offset.
 - Text out is `char **out, size_t *out_len`: the library allocates, nbl_free frees; it ends in NUL and out_len may be
   NULL. Where it is called for every token it is the caller's buffer instead: NBL_E_BUFFER writes the size needed,
   and nothing is lost.
 - Only fixed-width numbers, size_t and pointers cross: no structs, bools, C enums, or variable arguments.
 - [any]: from any thread, concurrently. [own]: from any thread, one call at a time for the first handle; a second one
   at the same time is NBL_E_BUSY. No function cares which thread it is called from.
 - [long]: may run for long; nbl_session_cancel or nbl_job_cancel ends it.
 - The library never prints, exits, aborts, reads the environment, or lets an exception out."""

PREAMBLE = """#ifndef NIBBLE_H
#define NIBBLE_H

#include <stddef.h>
#include <stdint.h>

#define NBL_VERSION_MAJOR %(major)d
#define NBL_VERSION_MINOR %(minor)d
#define NBL_VERSION_PATCH %(patch)d
#define NBL_ABI_VERSION (((uint32_t)NBL_VERSION_MAJOR << 16) | NBL_VERSION_MINOR) /* for nbl_abi_check */
#define NBL_API_HASH "%(hash)s" /* of every name, type and value below; nbl_build_info has the library's */
#define NBL_NTS ((size_t)-1)

#if defined(_WIN32)
#  ifdef NBL_BUILDING
#    define NBL_API __declspec(dllexport)
#  else
#    define NBL_API __declspec(dllimport)
#  endif
#  define NBL_CALL __cdecl
#elif defined(__GNUC__)
#  define NBL_API __attribute__((visibility("default")))
#  define NBL_CALL
#else
#  define NBL_API
#  define NBL_CALL
#endif

#ifdef __cplusplus
extern "C" {
#endif
"""


def comment(text, indent=""):
    lines = []
    for paragraph in text.split("\n"):
        if "\n" in text:  # laid out by hand
            lines.append(paragraph)
            continue
        lines += textwrap.wrap(paragraph, WIDTH - len(indent) - 3) or [""]
    if len(lines) == 1:
        return "%s/* %s */\n" % (indent, lines[0])
    return indent + "/* " + "\n".join([lines[0]] + [(indent + " * " + line).rstrip() for line in lines[1:]]) + " */\n"


def prototype(fn):
    # A parameter stays on one line: its blanks are hidden from the wrapping.
    params = ", ".join((t + n).replace(" ", "\0") for t, n in fn.c_params()) or "void"
    head = "NBL_API %s%sNBL_CALL nbl_%s(" % (fn.c_return(), "" if fn.c_return().endswith("*") else " ", fn.name)
    return "\n".join(textwrap.wrap(head + params + ");", WIDTH, subsequent_indent=" " * 4, break_long_words=False)).replace("\0", " ") + "\n"


def enum(rows):
    out = "enum {\n"
    width = max(len(name) for name, _, _ in rows)
    for index, (name, value, doc) in enumerate(rows):
        entry = "  %-*s = %d%s" % (width, name, value, "" if index == len(rows) - 1 else ",")
        pad = width + 14
        lines = textwrap.wrap(doc, WIDTH - pad - 6)
        out += "%-*s/* %s */\n" % (pad, entry, ("\n%s" % (" " * (pad + 3))).join(lines))
    return out + "};\n"


def option_doc(option):
    facts = {"i64": "whole number", "f64": "number", "str": "text", "list": "list of texts"}[option["type"]]
    if "values" in option:
        facts = "one of " + ", ".join(option["values"])
    elif "min" in option:
        facts += " from %s to %s" % (option["min"], option["max"])
    if option.get("default") not in (None, ""):
        facts += "; default %s" % option["default"]
    return "[%s; %s] %s" % (option["for"], facts, option["doc"])


def header(api):
    out = comment(CONVENTIONS) + PREAMBLE % {"major": api.major, "minor": api.minor, "patch": api.patch, "hash": api.hash} + "\n"
    for handle in api.handles:
        out += "typedef struct nbl_%-8s nbl_%-8s /* %s */\n" % (handle["name"], handle["name"] + ";", handle["doc"])
    out += "\ntypedef int32_t nbl_status;\n" + enum([("NBL_" + s["name"], s["value"], s["doc"]) for s in api.statuses])
    out += "\ntypedef int32_t nbl_token; /* an id of the model's vocabulary */\n"
    for block in api.constants:
        out += "\n" + comment(block["doc"]) + enum([("NBL_%s_%s" % (block["prefix"], v[0]), v[1], v[2]) for v in block["values"]])
    out += "\n" + comment("Properties, for nbl_model_i64, nbl_model_str, nbl_session_i64 and nbl_device_i64.")
    out += "typedef int32_t nbl_prop;\n" + enum([("NBL_PROP_" + p["name"], p["value"], "%s: %s" % (p["of"], p["doc"])) for p in api.props])
    out += "\n" + comment("Options, for nbl_config_set_* and nbl_session_set_*.") + "typedef int32_t nbl_option;\n"
    out += enum([("NBL_OPT_" + o["name"], o["value"], option_doc(o)) for o in api.options])
    out += "\ntypedef void(NBL_CALL *nbl_log_fn)(int32_t level, const char *text, size_t len, void *user);\n"
    for group, title in GROUPS.items():
        out += "\n/* ---- %s */\n" % title
        for fn in api.fns:
            if fn.group == group:
                marks = "[%s]%s " % (fn.thread, " [long]" if fn.blocks == "long" else "")
                out += "\n" + comment(marks + fn.doc) + prototype(fn)
    return out + "\n#ifdef __cplusplus\n}\n#endif\n#endif\n"


def outputs(api):
    exports = "NIBBLE_1.0 {\n  global:\n%s  local: *;\n};\n" % "".join("    nbl_%s;\n" % fn.name for fn in api.fns)
    document = {"version": api.version, "api_hash": api.hash, "promises": spec.promises(api)}
    return {
        "include/nibble.h": header(api),
        "src/api/nibble.map": "/* GENERATED by bindings/generate.py */\n" + exports,
        "bindings/spec/nibble.api.json": json.dumps(document, indent=1) + "\n",
    }
