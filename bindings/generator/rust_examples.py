"""Examples of the Rust crate's documentation; every one is a doctest, run on the model in samples/models by `cargo test --doc`.

The keys are functions of the spec, or handles. Lines that begin with "# " run but are not shown.
"""
import textwrap

OPEN = """# fn main() -> nibble::Result<()> {
# let dir = "../../samples/models/story-6m-awq";
"""
MODEL = """# use nibble::{Config, Model, Session};
# let model = Model::load(dir, &Config::new())?;
"""
SESSION = MODEL + "# let mut session = Session::new(&model, &Config::new().temperature(0.0))?;\n"
CLOSE = """# Ok(())
# }
"""


def example(code, before=""):
    return "```\n" + OPEN + before + textwrap.dedent(code).strip("\n") + "\n" + CLOSE + "```"


EXAMPLES = {
    "model": example("""
        use nibble::{Config, Model, Session};
        let model = Model::load(dir, &Config::new())?;
        println!("{}: {} layers", model.architecture()?, model.layers()?);
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let model = &model; // a model is shared, a session belongs to one thread at a time
                scope.spawn(move || Session::new(model, &Config::new().seed(seed))?.generate("Once upon a time", 20));
            }
        });
        """),
    "session": example("""
        use nibble::{Config, Model, Session, Tokenize};
        let model = Model::load(dir, &Config::new())?;
        let mut session = Session::new(&model, &Config::new().context(256).seed(7))?;
        session.append_text("Once upon a time", Tokenize::ADD_SPECIAL)?;
        for token in session.begin(50)? {
            print!("{}", token?.text);
        }
        println!(" ({} tokens)", session.generated_tokens()?);
        """),
    "batch": example("""
        use nibble::{Batch, Config, Model, Session, Tokenize};
        let model = Model::load(dir, &Config::new())?;
        let mut batch = Batch::new(&model, &Config::new())?;
        let mut sessions = Vec::new();
        for prompt in ["Once upon a time", "The little dog"] {
            let mut session = Session::new(&model, &Config::new())?;
            session.append_text(prompt, Tokenize::ADD_SPECIAL)?;
            session.begin(20)?;
            batch.add(&session)?;
            sessions.push(session);
        }
        let mut texts = vec![String::new(); sessions.len()];
        while batch.step()? > 0 {
            for (session, text) in sessions.iter_mut().zip(&mut texts) {
                if let Some(token) = session.next_token()? {
                    text.push_str(&token.text);
                }
            }
        }
        """),
    "job": example("""
        use nibble::{Config, Model};
        use std::time::Duration;
        let job = Model::start_load(dir, &Config::new())?;
        while !job.wait(Some(Duration::from_millis(100)))? {
            let (done, total) = job.progress()?;
            println!("{}: {done} of {total}", job.stage()?);
        }
        let model = job.take_model()?;
        """),
    "version": """```
println!("libnibble {}: {}", nibble::version(), nibble::build_info()?);
# nibble::Result::Ok(())
```""",
    "log_next": """```
use nibble::LogLevel;
nibble::log_level(LogLevel::Info);
while let Some(line) = nibble::log_next(Some(std::time::Duration::ZERO))? {
    eprintln!("{:?}: {}", line.level, line.text);
}
# nibble::log_level(LogLevel::Off);
# nibble::Result::Ok(())
```""",
    "device_count": """```
use nibble::Device;
for device in (0..Device::count()).map(Device) {
    println!("{}: {} bytes free", device.name()?, device.free_bytes()?);
}
# nibble::Result::Ok(())
```""",
    "option_count": """```
let options = (0..nibble::option_count()).filter_map(nibble::option_at);
assert!(options.clone().any(|option| option == nibble::OptionId::TOP_P));
for option in options {
    println!("{}", nibble::option_describe(option)?);
}
# nibble::Result::Ok(())
```""",
    "config_to_json": """```
use nibble::Config;
assert_eq!(Config::new().merge_json(r#"{"temperature": 0.5, "top_k": 3}"#).to_json()?, Config::new().temperature(0.5).top_k(3).to_json()?);
# nibble::Result::Ok(())
```""",
    "model_inspect": example("""
        let facts = nibble::Model::inspect(dir)?;
        assert!(facts.contains("LlamaForCausalLM"));
        """),
    "tokenize": example("""
        use nibble::{Detokenize, Tokenize};
        let ids = model.tokenize("Once upon a time", Tokenize::NONE)?;
        assert_eq!(model.detokenize(&ids, Detokenize::NONE)?, "Once upon a time");
        """, MODEL),
    "tokenize_spans": example("""
        let text = "Once upon a time";
        for (id, begin, end) in model.tokenize_spans(text, nibble::Tokenize::NONE)? {
            println!("{id}: {:?}", &text[begin as usize..end as usize]);
        }
        """, MODEL),
    "chat_render": example("""
        use nibble::{Chat, Message};
        let prompt = model.chat_render(&Chat::new([Message::user("Tell me a story.")]))?;
        assert!(prompt.contains("Tell me a story."));
        """, MODEL),
    "session_begin": example("""
        session.append_text("Once upon a time", nibble::Tokenize::ADD_SPECIAL)?;
        let mut stream = session.begin(10)?;
        while let Some(token) = stream.next() {
            let token = token?;
            println!("{} {:?}, {} tokens by now", token.id, token.text, stream.session().token_count()?);
        }
        assert_eq!(session.stop_reason()?, nibble::StopReason::MaxTokens);
        """, SESSION),
    "session_top": example("""
        session.append_text("Once upon a", nibble::Tokenize::ADD_SPECIAL)?;
        let (best, log_probability) = session.top(1)?[0];
        assert_eq!(model.token_bytes(best)?, b" time");
        assert!(log_probability.exp() > 0.5);
        """, SESSION),
    "session_score": example("""
        session.append_text("Once upon", nibble::Tokenize::ADD_SPECIAL)?;
        let scores = session.score(&model.tokenize(" a time", nibble::Tokenize::NONE)?)?;
        assert!(scores.iter().all(|&log_probability| log_probability > -1.0));
        """, SESSION),
    "session_generate": example("""
        let answer = session.generate("Once upon a time", 20)?;
        assert!(!answer.is_empty());
        """, SESSION),
    "perplexity_start": example("""
        let job = model.start_perplexity(&Config::new().perplexity_window(16), &"Once upon a time there was a dog. ".repeat(4))?;
        job.wait(None)?;
        assert!(job.result()?.contains("perplexity"));
        """, MODEL),
}
