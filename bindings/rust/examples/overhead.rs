//! What a token costs beside computing it:  cargo run --release --example overhead DIR [STEPS]
//!
//! A batch computes the tokens of 32 sessions; then they wait, and taking them is timed: by `Session::next_token`, and in
//! turns by the C API's own function into a buffer on the stack, which is what a C program pays. Prints `rust N ns/token`
//! and, on standard error, `c N ns/token`.
use std::process::ExitCode;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use nibble::{sys, Batch, Config, Model, Session, Tokenize};

const SESSIONS: usize = 32;

struct Cost {
    time: Duration,
    tokens: u64,
    bytes: usize,
}

impl Cost {
    fn per_token(&self) -> u128 {
        self.time.as_nanos() / u128::from(self.tokens.max(1))
    }
}

/// The tokens that wait, by the binding.
fn take(sessions: &mut [Session], cost: &mut Cost) -> nibble::Result<()> {
    let start = Instant::now();
    for session in sessions {
        if let Some(token) = session.next_token()? {
            cost.bytes += token.text.len();
            cost.tokens += 1;
        }
    }
    cost.time += start.elapsed();
    Ok(())
}

/// The same with handles of the C API.
fn take_raw(sessions: &[*mut sys::nbl_session], cost: &mut Cost) {
    let start = Instant::now();
    for &session in sessions {
        let (mut id, mut text, mut size, mut error) = (0, [0; 256], 0, null_mut());
        // SAFETY: a live handle, and a buffer with its size.
        let status = unsafe { sys::nbl_session_next(session, &mut id, text.as_mut_ptr(), text.len(), &mut size, &mut error) };
        if status == sys::NBL_OK {
            cost.bytes += size;
            cost.tokens += 1;
        }
    }
    cost.time += start.elapsed();
}

/// Raw twins of a session and a batch, for `take_raw`.
struct Raw {
    model: *mut sys::nbl_model,
    batch: *mut sys::nbl_batch,
    sessions: Vec<*mut sys::nbl_session>,
}

impl Raw {
    fn new(directory: &str, prompt: &str, tokens: i64) -> Raw {
        let mut raw = Raw { model: null_mut(), batch: null_mut(), sessions: Vec::new() };
        // SAFETY: the outputs are there, and every status is looked at before a handle is used.
        unsafe {
            let check = |status: i32| assert_eq!(status, sys::NBL_OK);
            check(sys::nbl_model_load(directory.as_ptr().cast(), directory.len(), null_mut(), &mut raw.model, null_mut()));
            check(sys::nbl_batch_create(raw.model, null_mut(), &mut raw.batch, null_mut()));
            for _ in 0..SESSIONS {
                let mut session = null_mut();
                check(sys::nbl_session_create(raw.model, null_mut(), &mut session, null_mut()));
                check(sys::nbl_session_set_i64(session, sys::NBL_OPT_IGNORE_EOS, 1, null_mut()));
                check(sys::nbl_session_append_text(
                    session,
                    prompt.as_ptr().cast(),
                    prompt.len(),
                    sys::NBL_TOKENIZE_ADD_SPECIAL,
                    null_mut(),
                ));
                check(sys::nbl_session_begin(session, tokens, null_mut()));
                check(sys::nbl_batch_add(raw.batch, session, null_mut()));
                raw.sessions.push(session);
            }
        }
        raw
    }

    fn step(&mut self) {
        let mut active = 0;
        // SAFETY: the batch is there.
        assert_eq!(unsafe { sys::nbl_batch_step(self.batch, &mut active, null_mut()) }, sys::NBL_OK);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: each handle is released once.
        unsafe {
            self.sessions.iter().for_each(|&session| sys::nbl_session_release(session));
            sys::nbl_batch_release(self.batch);
            sys::nbl_model_release(self.model);
        }
    }
}

fn measure(directory: &str, steps: i64) -> nibble::Result<(Cost, Cost)> {
    let prompt = "Once upon a time";
    let model = Model::load(directory, &Config::new())?;
    let mut batch = Batch::new(&model, &Config::new())?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut session = Session::new(&model, &Config::new().ignore_eos(true))?;
        session.append_text(prompt, Tokenize::ADD_SPECIAL)?;
        session.begin(steps + 10)?;
        batch.add(&session)?;
        sessions.push(session);
    }
    let mut raw = Raw::new(directory, prompt, steps + 10);
    let cost = || Cost { time: Duration::ZERO, tokens: 0, bytes: 0 };
    let (mut warm, mut rust, mut c) = (cost(), cost(), cost());
    for step in 0..steps + 10 {
        batch.step()?;
        take(&mut sessions, if step < 10 { &mut warm } else { &mut rust })?;
        raw.step();
        take_raw(&raw.sessions, if step < 10 { &mut warm } else { &mut c });
    }
    assert_eq!((rust.tokens, rust.bytes), (c.tokens, c.bytes), "both ways give the same text");
    Ok((rust, c))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let steps = arguments.get(2).map_or(Ok(200), |text| text.parse());
    let result = match (arguments.get(1), steps) {
        (Some(directory), Ok(steps)) => measure(directory, steps),
        _ => {
            eprintln!("usage: overhead DIR [STEPS]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok((rust, c)) => {
            eprintln!("c {} ns/token", c.per_token());
            println!("rust {} ns/token", rust.per_token());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
