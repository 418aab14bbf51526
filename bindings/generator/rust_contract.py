"""tests/bindings/rust/tests/contract.rs: Rust's view of the library. Every function with NULL, every constant and every
accessor of an option or a property against the library that runs."""
import json

from generator import contract, language, rust
from generator.language import pascal, snake
from generator.rust import BANNER, identifier

START = '''//! Every function, constant, option and property against the library that runs.
#![cfg_attr(rustfmt, rustfmt_skip)]
use std::ptr;

use nibble::{sys, *};
use nibble_tests::{model, model_directory};

fn refused(name: &str, status: sys::nbl_status, error: *mut sys::nbl_error) {
    let message = unsafe { std::ffi::CStr::from_ptr(sys::nbl_error_message(error, ptr::null_mut())) }.to_str().unwrap();
    assert_eq!(status, sys::NBL_E_ARGUMENT, "{name}: {message}");
    assert!(!error.is_null() && !message.is_empty(), "{name} made no error");
    assert_eq!(unsafe { sys::nbl_error_status(error) }, status, "{name}");
    unsafe { sys::nbl_error_release(error) };
}

/// Without its handles and outputs a function says so; to release nothing is nothing.
#[test]
#[allow(clippy::zero_ptr)]
fn every_function_takes_null() {
    unsafe {
'''


def null_value(c_type):
    if c_type == "nbl_log_fn ":
        return "None"
    if not c_type.endswith("*"):
        return "0.0" if c_type in ("double ", "float ") else "0"
    return "ptr::null()" if c_type.startswith("const ") else "ptr::null_mut()"


def null_call(fn):
    values = [null_value(t) for t, _ in fn.c_params()]
    if not fn.fallible:
        return "        sys::nbl_%s(%s);\n" % (fn.name, ", ".join(values))
    values[-1] = "&mut error"
    call = "sys::nbl_%s(%s)" % (fn.name, ", ".join(values))
    out = "        let mut error = ptr::null_mut();\n"
    if contract.refuses_null(fn):
        return out + "        let status = %s;\n        refused(\"nbl_%s\", status, error);\n" % (call, fn.name)
    return out + "        %s;\n        sys::nbl_error_release(error);\n" % call


def default_of(option):
    """A value of the option as its method takes it."""
    if option.kind == "list":
        return "[1, 2]" if option.integers else '["a", "b"]'
    if option.kind == "bool":
        return "true" if option.default else "false"
    if option.values:
        return "%s::%s" % (pascal(option.name), pascal(option.values[-1]))
    if option.kind == "str":
        return json.dumps(option.default or "x")
    if option.kind == "f64":
        return "%r" % float(option.low if option.low is not None else 1)
    return "%d" % (option.high if option.high is not None else 1)


def outputs(api):
    names = rust.Rust(api)
    out = BANNER + START + "".join(null_call(fn) for fn in api.fns) + "    }\n}\n\n"
    out += "#[test]\nfn every_status_has_its_name() {\n"
    for row in api.statuses:
        out += "    assert_eq!((sys::NBL_%s, status_name(%d)), (%d, \"NBL_%s\"));\n" % (row["name"], row["value"], row["value"], row["name"])
        if row["name"].startswith("E_"):
            out += "    assert_eq!(ErrorKind::%s.number(), %d);\n" % (pascal(row["name"][2:]), row["value"])
    out += "    assert_eq!(status_name(-999), \"NBL_UNKNOWN\");\n}\n\n"
    out += "#[test]\nfn the_library_is_of_this_api() {\n    assert_eq!(version(), sys::NBL_VERSION);\n    assert_eq!(abi_version(), sys::NBL_ABI_VERSION);\n"
    out += "    assert!(build_info().unwrap().contains(&format!(\"\\\"{}\\\"\", sys::NBL_API_HASH)));\n}\n\n"
    out += "#[test]\nfn flags_and_codes_have_their_numbers() {\n"
    for block in api.constants:
        for name, value, _ in block["values"]:
            constant = names.constant(block["prefix"], name)
            field = ".number()" if block["type"] != "u32" and block["prefix"] != "DEVICE" else ".0"
            out += "    assert_eq!((sys::NBL_%s_%s, %s%s), (%d, %d));\n" % (block["prefix"], name, constant, field, value, value)
    out += "}\n\n#[test]\nfn every_option_is_known_by_its_number() {\n    assert_eq!(option_count(), %d);\n" % len(api.options)
    for index, row in enumerate(api.options):
        out += "    option_is(%d, OptionId::%s, sys::NBL_OPT_%s, %d, \"%s\");\n" % (index, row["name"], row["name"], row["value"], row["name"].lower())
    out += "}\n\nfn option_is(index: i32, option: OptionId, raw: i32, number: i32, name: &str) {\n"
    out += "    assert_eq!((option_at(index), option.0, raw), (Some(option), number, number));\n"
    out += "    assert!(option_describe(option).unwrap().contains(&format!(\"\\\"name\\\":\\\"{name}\\\"\")), \"{name}\");\n}\n\n"
    out += "#[test]\nfn every_option_has_a_method_of_the_config() {\n"
    for option in language.options(api):
        out += "    option_sets(\"%s\", Config::new().%s(%s));\n" % (option.name.lower(), identifier(snake(option.name)), default_of(option))
    out += "}\n\nfn option_sets(name: &str, config: Config) {\n    let json = config.to_json().unwrap();\n"
    out += "    assert!(json.starts_with(&format!(\"{{\\\"{name}\\\":\")), \"{name}: {json}\");\n}\n\n"
    out += "#[test]\nfn every_generation_option_has_methods_of_the_session() {\n    let mut session = Session::new(model(), &Config::new()).unwrap();\n"
    for option in language.options(api):
        if option.generation:
            field = snake(option.name)
            value = default_of(option).strip("[]").split(",")[0]
            out += "    session.%s_%s(%s).unwrap();\n    session.clear_%s().unwrap();\n" % ("add" if option.kind == "list" else "set", field, value, field)
    out += "}\n\n#[test]\nfn every_property_has_a_method() {\n    let model = model();\n    let mut session = Session::new(model, &Config::new()).unwrap();\n"
    out += "    session.append_text(\"Once\", Tokenize::NONE).unwrap();\n"
    for row in api.props:
        words = row["of"].split()
        get = "text" if words[-1] == "text" else "number"
        out += "    assert_eq!(Prop::%s.0, sys::NBL_PROP_%s);\n" % (row["name"], row["name"])
        if words[0] == "device":  # there need not be one: the answer is the same for both ways
            out += "    assert_eq!(Device(7777).%s(Prop::%s).unwrap_err(), Device(7777).%s().unwrap_err());\n" % (get, row["name"], names.prop_name(row["name"]))
        else:
            out += "    %s.%s(Prop::%s).unwrap();\n    %s.%s().unwrap();\n" % (words[0], get, row["name"], words[0], names.prop_name(row["name"]))
    out += "    assert_eq!(model.number(Prop(9999)).unwrap_err().kind(), ErrorKind::Argument);\n"
    out += "    assert!(Model::inspect(model_directory()).unwrap().contains(\"loadable\"));\n}\n"
    return {"tests/bindings/rust/tests/contract.rs": out}
