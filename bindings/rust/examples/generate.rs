//! Text out of a checkpoint directory:  cargo run --example generate DIR [PROMPT]
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use nibble::{Config, Model, Session, Tokenize};

fn generate(directory: &str, prompt: &str) -> Result<(), Box<dyn Error>> {
    let model = Model::load(directory, &Config::new())?;
    let mut session = Session::new(&model, &Config::new())?;
    session.append_text(prompt, Tokenize::ADD_SPECIAL)?;
    let mut out = io::stdout();
    write!(out, "{prompt}")?;
    for token in session.begin(200)? {
        write!(out, "{}", token?.text)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() < 2 {
        eprintln!("usage: generate DIR [PROMPT]");
        return ExitCode::from(2);
    }
    match generate(&arguments[1], arguments.get(2).map_or("Once upon a time", String::as_str)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
