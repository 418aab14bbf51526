//! What a host may do wrong, or do to the limit: the answer is an error or the right text, never a crash.
use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nibble::*;
use nibble_tests::{load, model, model_directory, run_child, Random, CHILD};

const PROMPT: &str = "Once upon a time";

fn greedy() -> Config {
    Config::new().temperature(0.0)
}

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}

/// Compiles only as long as `T` is not Sync: with two candidates the inference fails.
trait AmbiguousIfSync<A> {
    fn check() {}
}
impl<T: ?Sized> AmbiguousIfSync<()> for T {}
impl<T: ?Sized + Sync> AmbiguousIfSync<u8> for T {}

#[test]
fn types_cross_threads_as_far_as_promised() {
    is_send::<Model>();
    is_sync::<Model>();
    is_send::<Config>();
    is_sync::<Config>();
    is_send::<Job>();
    is_sync::<Job>();
    is_send::<CancelHandle>();
    is_sync::<CancelHandle>();
    is_send::<Error>();
    is_sync::<Error>();
    is_send::<Session>();
    is_send::<Batch>();
    <Session as AmbiguousIfSync<_>>::check();
    <Batch as AmbiguousIfSync<_>>::check();
    fn clones<T: Clone>() {}
    clones::<CancelHandle>();
}

#[test]
fn everything_but_the_session_is_dropped_while_it_streams() {
    let own = load();
    let config = greedy();
    let mut session = Session::new(&own, &config).unwrap();
    let (sender, receiver) = mpsc::channel();
    let streaming = thread::spawn(move || {
        session.append_text(PROMPT, Tokenize::ADD_SPECIAL).unwrap();
        let mut text = String::new();
        for token in session.begin(60).unwrap() {
            text.push_str(&token.unwrap().text);
            let _ = sender.send(());
        }
        text
    });
    receiver.recv().unwrap();
    drop(own);
    drop(config);
    assert_eq!(streaming.join().unwrap(), Session::new(model(), &greedy()).unwrap().generate(PROMPT, 60).unwrap());
}

#[test]
fn cancel_handles_outlive_the_session_and_meet_its_end() {
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::sync_channel::<CancelHandle>(0);
    let calls = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (stop, calls) = (&stop, &calls);
        // Cancels without pause while the sessions are dropped.
        scope.spawn(move || {
            let mut handles: Vec<CancelHandle> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                handles.extend(receiver.try_recv());
                for handle in handles.iter().rev().take(4) {
                    handle.clone().cancel();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
            assert!(format!("{:?}", handles[0]).contains("released: true"));
        });
        for _ in 0..300 {
            let mut session = Session::new(model(), &Config::new().context(32)).unwrap();
            sender.send(session.cancel_handle()).unwrap();
            let result = session.append(&[1, 2, 3]);
            assert!(result.is_ok() || result.unwrap_err().kind() == ErrorKind::Cancelled);
            drop(session);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(calls.load(Ordering::Relaxed) > 300);
}

#[test]
fn a_cancel_at_any_moment_ends_the_call_and_nothing_else() {
    let mut session = Session::new(model(), &greedy()).unwrap();
    let expected = session.generate(PROMPT, 30).unwrap();
    let stop = AtomicBool::new(false);
    let (mut cancelled, mut complete) = (0, 0);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (handle, stop) = (session.cancel_handle(), &stop);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_micros(random.below(20_000)));
                    handle.cancel();
                }
            });
        }
        for _ in 0..150 {
            // Even this call may be cancelled; the session is then empty or holds the prompt.
            let result = session.truncate(0).and_then(|()| session.generate(PROMPT, 30));
            match result {
                Ok(text) => {
                    assert_eq!(text, expected);
                    complete += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                    cancelled += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{cancelled} of {} generations were cancelled", cancelled + complete);
    assert!(cancelled > 0);
    session.truncate(0).unwrap();
    assert_eq!(session.generate(PROMPT, 30).unwrap(), expected);
}

#[test]
fn sixty_four_sessions_at_once_write_what_each_writes_alone() {
    let answer = |seed: i64| Session::new(model(), &Config::new().context(64).seed(seed)).unwrap().generate(PROMPT, 20).unwrap();
    let answers: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|seed| scope.spawn(move || answer(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (seed, text) in answers.iter().enumerate() {
        assert_eq!(*text, answer(seed as i64), "seed {seed}");
    }
}

#[test]
fn a_session_moves_between_threads() {
    let mut session = Session::new(model(), &greedy()).unwrap();
    session.append_text(PROMPT, Tokenize::ADD_SPECIAL).unwrap();
    session.begin(20).unwrap();
    let mut text = String::new();
    loop {
        let (back, token) = thread::spawn(move || {
            let token = session.next_token();
            (session, token)
        })
        .join()
        .unwrap();
        session = back;
        match token.unwrap() {
            Some(token) => text.push_str(&token.text),
            None => break,
        }
    }
    assert_eq!(text, Session::new(model(), &greedy()).unwrap().generate(PROMPT, 20).unwrap());
}

#[test]
fn a_batch_and_its_session_on_two_threads_are_right_or_busy() {
    let mut batch = Batch::new(model(), &Config::new()).unwrap();
    let mut session = Session::new(model(), &greedy()).unwrap();
    session.append_text(PROMPT, Tokenize::ADD_SPECIAL).unwrap();
    session.begin(100).unwrap();
    batch.add(&session).unwrap();
    let stepping = thread::spawn(move || {
        loop {
            match batch.step() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy),
            }
        }
        drop(batch);
    });
    let mut text = String::new();
    loop {
        match session.next_token() {
            Ok(Some(token)) => text.push_str(&token.text),
            Ok(None) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy),
        }
    }
    stepping.join().unwrap();
    assert_eq!(text, Session::new(model(), &greedy()).unwrap().generate(PROMPT, 100).unwrap());
}

/// Calls `visit` with every order of 0..count.
fn orders(count: usize, visit: &mut impl FnMut(&[usize])) {
    fn extend(order: &mut Vec<usize>, count: usize, visit: &mut impl FnMut(&[usize])) {
        if order.len() == count {
            return visit(order);
        }
        for next in 0..count {
            if !order.contains(&next) {
                order.push(next);
                extend(order, count, visit);
                order.pop();
            }
        }
    }
    extend(&mut Vec::new(), count, visit);
}

#[test]
fn everything_is_dropped_in_every_order() {
    let mut count = 0;
    orders(5, &mut |order| {
        let own = load();
        let config = Config::new().context(32);
        let mut session = Session::new(&own, &config).unwrap();
        session.append(&[1, 2]).unwrap();
        session.begin(10).unwrap();
        let mut batch = Batch::new(&own, &config).unwrap();
        batch.add(&session).unwrap();
        batch.step().unwrap();
        let job = own.start_bench(&Config::new().bench_repeats(1000)).unwrap();
        let cancels = [session.cancel_handle(), job.cancel_handle()];
        let mut all: Vec<Option<Box<dyn Any>>> =
            vec![Some(Box::new(own)), Some(Box::new(config)), Some(Box::new(session)), Some(Box::new(batch)), Some(Box::new(job))];
        for &index in order {
            all[index] = None;
            cancels.iter().for_each(CancelHandle::cancel);
        }
        count += 1;
    });
    assert_eq!(count, 120);
}

#[test]
fn a_panic_between_two_calls_costs_only_what_it_dropped() {
    let mut session = Session::new(model(), &greedy()).unwrap();
    session.append_text(PROMPT, Tokenize::ADD_SPECIAL).unwrap();
    let mut text = String::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| {
        for (index, token) in session.begin(20).unwrap().enumerate() {
            text.push_str(&token.unwrap().text);
            if index == 7 {
                panic!("of the host");
            }
        }
    }));
    let lost = catch_unwind(|| {
        let _session = Session::new(model(), &Config::new()).unwrap();
        let _job = model().start_bench(&Config::new().bench_repeats(1000)).unwrap();
        panic!("of the host, with handles alive");
    });
    std::panic::set_hook(hook);
    assert!(result.is_err() && lost.is_err());
    for token in session.stream() {
        text.push_str(&token.unwrap().text);
    }
    assert_eq!(text, Session::new(model(), &greedy()).unwrap().generate(PROMPT, 20).unwrap());
}

#[test]
fn texts_of_every_sort_come_back_as_they_were() {
    let mut texts: Vec<String> =
        ["", "\0", "a\0b\0", "héllo 🦙!", "\u{10FFFF}", "e\u{301}", "\u{FEFF}x", "𝕏\u{200D}𝕐", "\r\n\t", "<|endoftext|>"]
            .iter()
            .map(|text| text.to_string())
            .collect();
    let mut random = Random(1);
    for _ in 0..200 {
        let length = random.below(60);
        texts.push((0..length).filter_map(|_| char::from_u32(random.below(0x110000) as u32)).collect());
    }
    for text in &texts {
        let ids = model().tokenize(text, Tokenize::SPELL_SPECIAL).unwrap();
        assert_eq!(model().detokenize(&ids, Detokenize::NONE).unwrap(), *text);
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| model().token_bytes(id).unwrap()).collect();
        assert_eq!(bytes, text.as_bytes());
        let spans = model().tokenize_spans(text, Tokenize::SPELL_SPECIAL).unwrap();
        assert_eq!(spans.len(), ids.len());
        assert!(spans.iter().all(|&(_, begin, end)| begin <= end && end <= text.len() as u64));
        let rendered = model().chat_render(&Chat::new([Message::user(text.as_str())]));
        assert!(rendered.unwrap().contains(text.as_str()));
        let set = Config::new().chat_template(text).to_json().unwrap();
        assert!(text.contains('\0') || set.len() >= text.len(), "{set}");
    }
}

#[test]
fn ten_megabytes_are_a_text_like_another() {
    let long = "The little dog 🐕 läuft. ".repeat(10 * 1024 * 1024 / 27 + 1);
    assert!(long.len() >= 10 * 1024 * 1024);
    let ids = model().tokenize(&long, Tokenize::NONE).unwrap();
    assert_eq!(model().detokenize(&ids, Detokenize::NONE).unwrap(), long);
    let mut session = Session::new(model(), &Config::new()).unwrap();
    assert_eq!(session.append_text(&long, Tokenize::NONE).unwrap_err().kind(), ErrorKind::ContextFull);
    assert_eq!(session.generate(&long, 5).unwrap_err().kind(), ErrorKind::ContextFull);
    assert_eq!(session.append_chat(&Chat::new([Message::user(long.as_str())])).unwrap_err().kind(), ErrorKind::ContextFull);
    assert_eq!(session.token_count().unwrap(), 0);
    assert!(Model::load(PROMPT.repeat(300), &Config::new()).is_err());
    assert!(Model::load(&long, &Config::new()).is_err());
    assert_eq!(Config::new().merge_json(&long).check().unwrap_err().kind(), ErrorKind::Format);
    assert!(Model::load(model_directory(), &Config::new().device(&long)).is_err());
}

#[test]
fn arguments_out_of_range_are_refused() {
    let mut session = Session::new(model(), &Config::new().context(16)).unwrap();
    assert_eq!(session.append(&[-1]).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(session.append(&[i32::MAX]).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(session.begin(5).map(drop).unwrap_err().kind(), ErrorKind::State);
    assert_eq!(session.truncate(-1).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(session.truncate(i64::MAX).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(session.tokens(i64::MIN).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(session.logits().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(session.bias(&[i32::MIN], &[0.0]).unwrap_err().kind(), ErrorKind::Argument);
    for id in [-5, i32::MIN, i32::MAX] {
        assert_eq!(model().token_bytes(id).unwrap(), b"", "an id that is none stands for nothing");
        assert_eq!(model().detokenize(&[id], Detokenize::NONE).unwrap(), "");
    }
    assert_eq!(session.set_i64(OptionId(0), 1).unwrap_err().kind(), ErrorKind::UnknownOption);
    assert!(session.set_temperature(f64::NAN).is_err());
    assert!(Device(i32::MIN).name().is_err());
    assert_eq!(option_at(-1), None);
    assert_eq!(option_at(i32::MAX), None);
    let other = load();
    let mut batch = Batch::new(&other, &Config::new()).unwrap();
    assert_eq!(batch.add(&session).unwrap_err().kind(), ErrorKind::State);
    assert_eq!(batch.remove(&session).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(batch.step().unwrap(), 0);
    let error = Model::load(OsStr::from_bytes(b"/tmp/\xff\xfe"), &Config::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.message().contains("UTF-8"));
}

/// The child: ends the process while a session streams, a job runs, and nothing has been dropped.
fn exit_with_everything_alive(by_return: bool) {
    // In a static, or LeakSanitizer would rightly call them leaks.
    static ALIVE: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
    let own = model();
    ALIVE.lock().unwrap().push(Box::new(own.start_bench(&Config::new().bench_repeats(1000)).unwrap()));
    ALIVE.lock().unwrap().push(Box::new(Batch::new(own, &Config::new()).unwrap()));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut session = Session::new(own, &Config::new().ignore_eos(true)).unwrap();
        loop {
            session.truncate(0).unwrap();
            session.append_text(PROMPT, Tokenize::ADD_SPECIAL).unwrap();
            for token in session.begin(400).unwrap() {
                token.unwrap();
                let _ = sender.send(());
            }
        }
    });
    receiver.recv().unwrap();
    if !by_return {
        std::process::exit(7);
    }
}

#[test]
fn the_process_ends_with_everything_alive() {
    match std::env::var(CHILD).as_deref() {
        Ok("return") => return exit_with_everything_alive(true),
        Ok(_) => return exit_with_everything_alive(false),
        Err(_) => {}
    }
    for _ in 0..5 {
        for (child, status) in [("exit", 7), ("return", 0)] {
            let start = Instant::now();
            let output = run_child("the_process_ends_with_everything_alive", child);
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            println!("{child}: {:?}", start.elapsed());
        }
    }
}
