//! Memory after very many handles. Alone in its program, so that nothing else moves the figure.
use nibble::*;
use nibble_tests::{load, model, model_directory, under_asan};

/// Bytes of this process that are in memory.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

fn cycle(round: i64) {
    let config = Config::new().context(32).seed(round).stop(["x"]);
    let mut session = Session::new(model(), &config).unwrap();
    let cancel = session.cancel_handle();
    if round % 10 == 0 {
        session.append_text("Once upon a time", Tokenize::ADD_SPECIAL).unwrap();
        session.begin(2).unwrap().for_each(|token| drop(token.unwrap()));
        session.logits().unwrap();
        let mut batch = Batch::new(model(), &config).unwrap();
        batch.add(&session).unwrap();
        batch.step().unwrap();
    }
    session.append(&[-1]).unwrap_err();
    Config::new().top_p(9.0).check().unwrap_err();
    Model::load("/no/such", &config).unwrap_err();
    drop(session);
    cancel.cancel();
}

#[test]
fn ten_thousand_cycles_leave_nothing_behind() {
    let asan = under_asan();
    let count = if asan { 1_000 } else { 10_000 };
    (0..count / 10).for_each(cycle); // fills the allocator's own lists
    let before = resident();
    (0..count).for_each(cycle);
    let growth = resident() - before;
    println!("{count} cycles of config, session and errors: resident memory grew by {} KiB", growth / 1024);
    (0..3).for_each(|_| drop(load()));
    let before = resident();
    for _ in 0..40 {
        let job = Model::start_load(model_directory(), &Config::new().device("cpu")).unwrap();
        job.wait(None).unwrap();
        job.take_model().unwrap();
    }
    let of_models = resident() - before;
    println!("40 loads by a job: resident memory grew by {} KiB", of_models / 1024);
    // A session of that context has 100 KiB of cache, a model 6 MiB of weights: one that stayed in each hundred would show.
    // AddressSanitizer keeps what was freed for a while; there the leak check at the exit tells.
    assert!(asan || (growth < 4 << 20 && of_models < 12 << 20));
}
