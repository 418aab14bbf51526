//! A conversation:  cargo run --example chat DIR [SEED [DEVICE]]
//!
//! A line is a message; the whole conversation is given each time, and the session runs only what is new. Ctrl-C ends the
//! answer, and at the prompt the program.
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use nibble::{Chat, Config, ErrorKind, Message, Model, Session};

/// What Ctrl-C reaches. The standard library has no signals; the C library, which is linked anyway, has.
mod ctrl_c {
    use nibble::CancelHandle;
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

    static CANCEL: AtomicPtr<CancelHandle> = AtomicPtr::new(std::ptr::null_mut());
    static ANSWERING: AtomicBool = AtomicBool::new(false);
    static STOPPED: AtomicBool = AtomicBool::new(false);

    const SIGINT: i32 = 2;
    extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
        fn _exit(status: i32) -> !;
    }

    extern "C" fn handler(_: i32) {
        if !ANSWERING.load(Ordering::SeqCst) {
            // SAFETY: _exit may be called in a signal handler.
            unsafe { _exit(0) }
        }
        STOPPED.store(true, Ordering::SeqCst);
        // SAFETY: the handle was leaked by install(); cancel() may be called in a signal handler.
        if let Some(cancel) = unsafe { CANCEL.load(Ordering::SeqCst).as_ref() } {
            cancel.cancel();
        }
    }

    pub fn install(cancel: CancelHandle) {
        CANCEL.store(Box::into_raw(Box::new(cancel)), Ordering::SeqCst);
        // SAFETY: the handler touches nothing but atomics.
        unsafe { signal(SIGINT, handler) };
    }

    /// From here on Ctrl-C stops an answer and not the program, or the other way round.
    pub fn answering(yes: bool) {
        STOPPED.store(false, Ordering::SeqCst);
        ANSWERING.store(yes, Ordering::SeqCst);
    }

    /// Whether it was pressed. Beside the cancel, for an append or a generation that begins afterwards clears that.
    pub fn stopped() -> bool {
        STOPPED.load(Ordering::SeqCst)
    }
}

/// Streams the answer to the conversation into `out` and `answer`; false when it was stopped.
fn stream(session: &mut Session, chat: &Chat, answer: &mut String, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let mut run = || -> Result<bool, Box<dyn Error>> {
        session.append_chat(chat)?;
        for token in session.begin(200)? {
            let token = token?;
            write!(out, "{}", token.text)?;
            out.flush()?;
            answer.push_str(&token.text);
            if ctrl_c::stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match run() {
        Err(error) if error.downcast_ref::<nibble::Error>().map(|e| e.kind()) == Some(ErrorKind::Cancelled) => Ok(false),
        result => result,
    }
}

fn talk(directory: &str, seed: i64, device: &str) -> Result<(), Box<dyn Error>> {
    let model = Model::load(directory, &Config::new().device(device))?;
    let mut session = Session::new(&model, &Config::new().seed(seed))?;
    ctrl_c::install(session.cancel_handle());
    let mut chat = Chat::new([]);
    let (mut input, mut out) = (io::stdin().lock(), io::stdout());
    loop {
        write!(out, "> ")?;
        out.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        chat.push(Message::user(line.trim_end_matches(&['\r', '\n'][..])));
        let mut answer = String::new();
        ctrl_c::answering(true);
        let result = stream(&mut session, &chat, &mut answer, &mut out);
        ctrl_c::answering(false);
        match result {
            Ok(complete) => {
                writeln!(out, "{}", if complete { "" } else { " [stopped]" })?;
                chat.push(Message::assistant(answer));
            }
            Err(error) => {
                writeln!(out)?;
                eprintln!("{error}");
                chat.pop(); // a turn that failed leaves no trace
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let seed = arguments.get(2).map_or(Ok(0), |text| text.parse());
    let result = match (arguments.get(1), seed) {
        (Some(directory), Ok(seed)) => talk(directory, seed, arguments.get(3).map_or("auto", String::as_str)),
        _ => {
            eprintln!("usage: chat DIR [SEED [DEVICE]]");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = result {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
