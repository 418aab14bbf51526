//! Runs AWQ, GPTQ and bitsandbytes checkpoints of Hugging Face on CPUs and NVIDIA GPUs: the safe binding of libnibble.
//!
//! ```
//! use nibble::{Config, Model, Session, Tokenize};
//!
//! fn main() -> nibble::Result<()> {
//! # let directory = "../../samples/models/story-6m-awq";
//! # let _ = stringify!(
//!     let directory = "my-model";
//! # );
//!     let model = Model::load(directory, &Config::new())?;
//!     let mut session = Session::new(&model, &Config::new().temperature(0.7))?;
//!     session.append_text("Once upon a time", Tokenize::ADD_SPECIAL)?;
//!     for token in session.begin(200)? {
//!         print!("{}", token?.text);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - A [`Model`] is immutable and shared among threads; a [`Session`] is one sequence of tokens, which may move between
//!   threads; a [`Batch`] steps many sessions together; a [`Job`] is a load or a measurement on a thread of its own.
//! - They may be dropped in any order: a session keeps its model.
//! - Failures are an [`Error`] with a [kind](ErrorKind), a message for people and a detail in JSON for programs.
//! - A [`CancelHandle`] ends an answer, an append or a job from another thread or from a signal handler.
//! - Nothing calls back into your code from C, so a panic never meets a foreign frame.
//!
//! The methods are generated from the specification of the C API; `sys` is that API itself.
#![deny(missing_docs, unsafe_op_in_unsafe_fn)]

mod chat;
#[rustfmt::skip]
mod generated;
mod support;

pub use chat::{Chat, Message, Value};
pub use generated::*;
pub use support::CancelHandle;

/// An id of a model's vocabulary.
pub type TokenId = sys::nbl_token;
