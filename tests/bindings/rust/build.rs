//! What bindings/rust/README.md tells a program to do so that it finds the library where it was linked.
fn main() {
    if let Ok(folder) = std::env::var("DEP_NIBBLE_LIBDIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
