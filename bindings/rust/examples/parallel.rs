//! Many sessions of one model at the same time:  cargo run --example parallel DIR [SESSIONS [PROMPT]]
//!
//! The model is shared by reference; every session belongs to the thread that made it. Its number is its seed.
use std::process::ExitCode;
use std::thread;

use nibble::{Config, Model, Session};

fn parallel(directory: &str, sessions: i64, prompt: &str) -> nibble::Result<Vec<String>> {
    let model = Model::load(directory, &Config::new())?;
    let answer = |seed| Session::new(&model, &Config::new().seed(seed))?.generate(prompt, 100);
    thread::scope(|scope| {
        let answer = &answer;
        let threads: Vec<_> = (0..sessions).map(|seed| scope.spawn(move || answer(seed))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer does not panic")).collect()
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let sessions = arguments.get(2).map_or(Ok(8), |text| text.parse());
    let prompt = arguments.get(3).map_or("Once upon a time", String::as_str);
    let result = match (arguments.get(1), sessions) {
        (Some(directory), Ok(sessions)) => parallel(directory, sessions, prompt),
        _ => {
            eprintln!("usage: parallel DIR [SESSIONS [PROMPT]]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(answers) => {
            for (seed, answer) in answers.iter().enumerate() {
                println!("== seed {seed}\n{prompt}{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
