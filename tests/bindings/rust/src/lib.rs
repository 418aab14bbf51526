//! What the tests share: the model in samples/models, loaded once; and a child process of the test that is running.
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, Once};

use nibble::{Config, Model};

pub fn model_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../samples/models/story-6m-awq")
}

/// A model of its own, on the CPU.
pub fn load() -> Model {
    Model::load(model_directory(), &Config::new().device("cpu")).unwrap()
}

/// The model that the tests of a program share.
pub fn model() -> &'static Model {
    static ONCE: Once = Once::new();
    static MODEL: Mutex<Option<&'static Model>> = Mutex::new(None);
    ONCE.call_once(|| *MODEL.lock().unwrap() = Some(Box::leak(Box::new(load()))));
    MODEL.lock().unwrap().unwrap()
}

/// Whether the library was built with AddressSanitizer, which CMakeLists.txt then loads first.
pub fn under_asan() -> bool {
    std::env::var("LD_PRELOAD").map_or(false, |libraries| libraries.contains("libasan"))
}

/// The variable that tells a test that it is the child, and which one.
pub const CHILD: &str = "NIBBLE_TEST_CHILD";

/// Runs the test `name` of this program in a process of its own, with CHILD set.
pub fn run_child(name: &str, child: &str) -> Output {
    Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(CHILD, child).output().unwrap()
}

/// A small generator of random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d049bb133111eb);
        (x ^ (x >> 31)) % limit
    }
}
