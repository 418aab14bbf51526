"""Builds libraries that have nibble's functions and nothing behind them, for tests of what checks the interface.

One made by build(header, spec, folder) declares what the header says and defines what the spec says: where the two differ it
does not compile, and its debugging information is the interface as a C compiler lays it out. With a version it also
answers as a library of that version does, and fails in everything else.
"""
import json
import pathlib
import subprocess

SPEAKING = r"""
#include <stdlib.h>
#include <string.h>
struct nbl_error { nbl_status status; char message[400]; };
static nbl_status fail(nbl_error** err, nbl_status status, const char* message) {
  if (err) {
    *err = calloc(1, sizeof **err);
    (*err)->status = status;
    strncpy((*err)->message, message, sizeof (*err)->message - 1);
  }
  return status;
}
const char* nbl_version(void) { return VERSION ".0"; }
uint32_t nbl_abi_version(void) { return (uint32_t)MAJOR << 16 | MINOR; }
nbl_status nbl_abi_check(uint32_t built, nbl_error** err) {
  if (built >> 16 == MAJOR && (built & 0xffff) <= MINOR) return NBL_OK;
  char text[100] = "built against X.Y, the library is " VERSION ".0";
  text[14] = (char)('0' + (built >> 16));
  text[16] = (char)('0' + (built & 0xffff));
  return fail(err, NBL_E_ABI, text);
}
nbl_status nbl_build_info(char** out, size_t* len, nbl_error** err) {
  static const char text[] = "{\"version\": \"" VERSION ".0\", \"api_hash\": \"" HASH "\"}";
  (void)err;
  *out = malloc(sizeof text);
  memcpy(*out, text, sizeof text);
  if (len) *len = sizeof text - 1;
  return NBL_OK;
}
const char* nbl_status_name(nbl_status s) { return s == NBL_E_ABI ? "NBL_E_ABI" : s == NBL_E_INTERNAL ? "NBL_E_INTERNAL" : "NBL_UNKNOWN"; }
void nbl_free(void* memory) { free(memory); }
nbl_status nbl_error_status(const nbl_error* e) { return e ? e->status : NBL_OK; }
const char* nbl_error_message(const nbl_error* e, size_t* len) {
  const char* text = e ? e->message : "";
  if (len) *len = strlen(text);
  return text;
}
const char* nbl_error_detail(const nbl_error* e, size_t* len) {
  (void)e;
  if (len) *len = 2;
  return "{}";
}
void nbl_error_release(nbl_error* e) { free(e); }
nbl_status nbl_config_create(nbl_config** out, nbl_error** err) {
  (void)err;
  *out = malloc(1);
  return NBL_OK;
}
void nbl_config_release(nbl_config* c) { free(c); }
"""
SPOKEN = {"version", "abi_version", "abi_check", "build_info", "status_name", "free", "error_status", "error_message", "error_detail",
          "error_release", "config_create", "config_release"}


def source(promises, speaking):
    out = '#include "nibble.h"\n' + (SPEAKING if speaking else "")
    for name, fn in promises["functions"].items():
        if speaking and name in SPOKEN:
            continue
        params = ["%s a%d" % (param, index) for index, param in enumerate(fn["params"])]
        body = " ".join("(void)a%d;" % index for index in range(len(params)))
        if speaking and fn["params"][-1:] == ["nbl_error **"]:
            body += ' return fail(a%d, NBL_E_INTERNAL, "nothing is behind this");' % (len(params) - 1)
        elif fn["returns"] != "void":
            body += " return 0;"
        out += "%s nbl_%s(%s) { %s }\n" % (fn["returns"], name, ", ".join(params) or "void", body)
    return out


def build(header, spec, folder, version=None, hash="", map_file=None, cc="cc"):
    """The path of folder/libnibble.so. version is (major, minor); spec is the JSON or its promises."""
    folder = pathlib.Path(folder)
    promises = spec if isinstance(spec, dict) else json.loads(pathlib.Path(spec).read_text(encoding="utf-8"))["promises"]
    (folder / "stub.c").write_text(source(promises, version is not None), encoding="utf-8")
    library = folder / "libnibble.so"
    command = [cc, "-std=c11", "-g", "-O1", "-fPIC", "-shared", "-Wl,-soname,libnibble.so.1", "-I%s" % pathlib.Path(header).parent,
               str(folder / "stub.c"), "-o", str(library)]
    if map_file:
        command.append("-Wl,--version-script=%s" % map_file)
    if version:
        command += ["-DMAJOR=%d" % version[0], "-DMINOR=%d" % version[1], '-DVERSION="%d.%d"' % version, '-DHASH="%s"' % hash]
    subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    link = folder / "libnibble.so.1"
    if not link.exists():
        link.symlink_to(library.name)
    return library
