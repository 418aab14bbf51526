//! What a token costs beside computing it:  cargo run --release --example overhead DIR [STEPS]
//!
//! A batch computes the tokens of 32 sessions; taking what waits is timed, text and all. Prints `rust N ns/token`;
//! tests/bench/binding_overhead.py puts it beside C and the other languages.
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nibble::{Batch, Config, Model, Session, Tokenize};

const SESSIONS: usize = 32;
const WARM_UP: i64 = 10;

fn measure(directory: &str, steps: i64) -> nibble::Result<u128> {
    let model = Model::load(directory, &Config::new())?;
    let mut batch = Batch::new(&model, &Config::new())?;
    let config = Config::new().ignore_eos(true);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut session = Session::new(&model, &config)?;
        session.append_text("Once upon a time", Tokenize::ADD_SPECIAL)?;
        session.begin(steps + WARM_UP)?;
        batch.add(&session)?;
        sessions.push(session);
    }
    let (mut taken, mut tokens, mut bytes) = (Duration::ZERO, 0, 0);
    for step in 0..steps + WARM_UP {
        batch.step()?;
        let start = Instant::now();
        for session in &mut sessions {
            if let Some(token) = session.next_token()? {
                tokens += u128::from(step >= WARM_UP);
                bytes += token.text.len();
            }
        }
        if step >= WARM_UP {
            taken += start.elapsed();
        }
    }
    eprintln!("{tokens} tokens, {bytes} bytes");
    Ok(taken.as_nanos() / tokens.max(1))
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
        Ok(cost) => {
            println!("rust {cost} ns/token");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
