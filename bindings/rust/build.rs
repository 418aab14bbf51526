//! Finds libnibble and tells cargo how to link it. No crates, no libclang: src/generated/sys.rs is generated beforehand.
//!
//! 1. `NIBBLE_DIR`: an installation prefix (`/usr/local`) or the folder that holds libnibble.so (`build/release`);
//! 2. else `pkg-config nibble` (`PKG_CONFIG` names another program, `PKG_CONFIG_PATH` further folders).
//!
//! Programs of this package get the folder as their run path. cargo passes link arguments on to nobody else, so a program of
//! yours finds the library where the system looks, or by two lines in its own build.rs (README.md, "Finding the library");
//! the folder is there as `DEP_NIBBLE_LIBDIR`.
use std::env;
use std::path::{Path, PathBuf};
use std::process::{exit, Command};

/// Where an installation prefix or a build folder keeps the library.
const FOLDERS: [&str; 6] = ["", "lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "bin"];
const FILES: [&str; 3] = ["libnibble.so", "libnibble.dylib", "nibble.lib"];

fn fail(problem: &str) -> ! {
    eprintln!("nibble: {problem}");
    eprintln!("nibble: install libnibble (cmake --install) so that `pkg-config nibble` finds it, or set NIBBLE_DIR to its prefix or to the folder of libnibble.so");
    exit(1);
}

fn from_directory(directory: &Path) -> PathBuf {
    let holds = |folder: &PathBuf| FILES.iter().any(|file| folder.join(file).exists());
    match FOLDERS.iter().map(|folder| directory.join(folder)).find(holds) {
        // Absolute, because the run path of a program may not depend on where it is started.
        Some(folder) => folder.canonicalize().unwrap_or(folder),
        None => fail(&format!("NIBBLE_DIR is {}, and neither it nor its lib folders hold libnibble", directory.display())),
    }
}

fn from_pkg_config() -> PathBuf {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let answer = Command::new(&program).args(["--variable=libdir", "nibble"]).output();
    match answer {
        Ok(output) if output.status.success() => {
            let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if folder.is_empty() {
                fail("pkg-config knows nibble, but not its libdir");
            }
            PathBuf::from(folder)
        }
        Ok(output) => fail(&format!("pkg-config does not know nibble: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => fail(&format!("NIBBLE_DIR is not set, and {} does not run: {error}", program.to_string_lossy())),
    }
}

fn main() {
    for name in ["NIBBLE_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("DOCS_RS").is_some() {
        return; // documentation needs no library
    }
    let folder = match env::var_os("NIBBLE_DIR") {
        Some(directory) if !directory.is_empty() => from_directory(Path::new(&directory)),
        _ => from_pkg_config(),
    };
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=nibble");
    println!("cargo:libdir={}", folder.display());
    if env::var("CARGO_CFG_TARGET_FAMILY").as_deref() == Ok("unix") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
