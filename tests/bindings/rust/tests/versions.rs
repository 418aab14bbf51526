//! A crate and a library that are not of one release. The functions below stand in for the library's: what a program defines
//! itself comes before what its libraries define.
#![deny(unsafe_op_in_unsafe_fn)]
use std::os::raw::{c_char, c_void};

use nibble::{sys, Config, ErrorKind, Model, Session};
use nibble_tests::{model_directory, run_child, CHILD};

extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn strdup(text: *const c_char) -> *mut c_char;
}
/// RTLD_NEXT: the library's own definition.
const NEXT: *mut c_void = -1isize as *mut c_void;

fn library_is(what: &str) -> bool {
    std::env::var(CHILD).as_deref() == Ok(what)
}

#[no_mangle]
unsafe extern "C" fn nbl_build_info(out: *mut *mut c_char, out_len: *mut usize, err: *mut *mut sys::nbl_error) -> i32 {
    type Real = unsafe extern "C" fn(*mut *mut c_char, *mut usize, *mut *mut sys::nbl_error) -> i32;
    let real: Real = unsafe { std::mem::transmute(dlsym(NEXT, b"nbl_build_info\0".as_ptr().cast())) };
    if !library_is("of another hash") && !library_is("newer") {
        return unsafe { real(out, out_len, err) };
    }
    let text = b"{\"version\":\"1.0.0\",\"api_hash\":\"0123456789abcdef\"}\0";
    unsafe {
        *out = strdup(text.as_ptr().cast());
        *out_len = text.len() - 1;
    }
    sys::NBL_OK
}

#[no_mangle]
unsafe extern "C" fn nbl_abi_check(built_against: u32, err: *mut *mut sys::nbl_error) -> i32 {
    type Real = unsafe extern "C" fn(u32, *mut *mut sys::nbl_error) -> i32;
    let real: Real = unsafe { std::mem::transmute(dlsym(NEXT, b"nbl_abi_check\0".as_ptr().cast())) };
    let built_against = if library_is("older") {
        built_against + 1 // as if this crate were one minor version ahead
    } else if library_is("of another major version") {
        built_against + (1 << 16)
    } else {
        built_against
    };
    unsafe { real(built_against, err) }
}

#[no_mangle]
extern "C" fn nbl_abi_version() -> u32 {
    sys::NBL_ABI_VERSION + u32::from(library_is("newer"))
}

/// The child: uses the library in each way that comes first.
#[test]
fn first_use() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let config = Config::new().check();
    let inspected = Model::inspect(model_directory()).map(|_| ());
    let loaded = Model::load(model_directory(), &Config::new());
    assert_eq!(config, inspected);
    match loaded {
        Ok(model) => println!("loaded {:?}", Session::new(&model, &Config::new()).unwrap().generate("Once", 3).is_ok()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Abi);
            assert_eq!(config.unwrap_err(), error);
            println!("refused {error} {}", error.detail());
        }
    }
}

fn said(child: &str) -> String {
    let output = run_child("first_use", child);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_library_of_this_release_is_taken() {
    assert!(said("as it is").contains("loaded true"));
}

#[test]
fn a_library_of_a_later_minor_version_is_taken() {
    assert!(said("newer").contains("loaded true"));
}

#[test]
fn another_api_of_the_same_version_is_refused_with_both_hashes_and_versions() {
    let text = said("of another hash");
    for part in ["refused", sys::NBL_API_HASH, "0123456789abcdef", sys::NBL_VERSION, nibble::version()] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_older_library_is_refused_with_both_versions() {
    let text = said("older");
    let (major, minor) = (sys::NBL_ABI_VERSION >> 16, sys::NBL_ABI_VERSION & 0xffff);
    for part in ["refused", &format!("{major}.{}", minor + 1), nibble::version()] {
        assert!(text.contains(part), "{text}");
    }
    assert!(said("of another major version").contains(&format!("refused this program was built against nibble {}.", major + 1)));
}
