//! The commands on an engine that reads its history back from pages, with the tokenizer of the
//! small example model.

mod fake;

use clap::{Args, Parser};
use fake::{FakeEngine, logits_after};
use generate::chat::Message;
use generate::command::args::{Command, FileArg};
use generate::command::bounds::Bounds;
use generate::command::goldens_report::Compared;
use generate::command::interrupt::Interrupt;
use generate::command::material::{Files, Material, Recommended};
use generate::command::{Streams, bench, chat, goldens, ids, logits, run};
use generate::logits::Feed;
use generate::{GenerateError, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;

const VOCAB: usize = 4096;

#[derive(Parser)]
struct Own<F: Args> {
    #[command(subcommand)]
    command: Command<F>,
}

#[derive(Args)]
struct NoFile {}

fn parse(line: &[&str]) -> Command<NoFile> {
    let words = ["latent-run"].iter().chain(line);
    Own::<NoFile>::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).command
}

fn material(with_tokenizer: bool) -> Material {
    let file = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/models/tiny-v3");
        std::fs::read(path.join(name)).expect("the example model is there")
    };
    let (json, config) = (file("tokenizer.json"), file("tokenizer_config.json"));
    let files =
        Files { tokenizer: Some(&json), tokenizer_config: Some(&config), ..Files::default() };
    let files = if with_tokenizer { files } else { Files::default() };
    Material::new(files, &[], &[1], Recommended::default()).expect("the files are sound")
}

fn engine() -> FakeEngine {
    FakeEngine::new(VOCAB, 64, 4, 20)
}

/// Streams of which none is a terminal.
fn streams<'s>(
    input: &'s mut dyn BufRead,
    out: &'s mut dyn Write,
    err: &'s mut dyn Write,
) -> Streams<'s> {
    Streams { input, out, err, interactive: false, err_is_terminal: false }
}

/// Runs `command` on streams; gives its result, output and error output.
fn with_streams(
    input: &str,
    command: impl FnOnce(&mut Streams<'_>) -> Result<()>,
) -> (Result<()>, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = command(&mut streams(&mut input.as_bytes(), &mut out, &mut err));
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (result, text(out), text(err))
}

fn run_line(line: &[&str], with_tokenizer: bool) -> (Result<()>, String, String) {
    let Command::Run { args, .. } = parse(line) else { panic!("not `run`") };
    let about = Map::from_iter([("threads".to_owned(), json!(2))]);
    with_streams("", |streams| {
        let material = material(with_tokenizer);
        let prompt = run::prompt(&material, &args)?;
        run::run(engine(), &material, prompt, &args, &about, &Interrupt::detached(), streams)
    })
}

fn greedy(prompt: &[i32], count: usize) -> Vec<i32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let row = logits_after(tokens.iter().copied(), VOCAB);
        let best = (0..VOCAB).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("ids");
        tokens.push(best as i32);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn run_streams_text_and_says_how_fast() {
    let line = ["run", "--prompt", "And the LORD", "--max-tokens", "8", "--ignore-eos"];
    let (result, out, err) = run_line(&line, true);
    result.expect("it runs");
    let tokenizer = material(true).tokenizer().expect("it has one").clone();
    let prompt = tokenizer.encode("And the LORD", generate::tokenize::Bos::Add).expect("text");
    let text =
        tokenizer.decode(&greedy(&prompt, 8), generate::tokenize::Specials::Skip).expect("text");
    assert_eq!(out, format!("{text}\n"));
    assert!(
        err.starts_with(&format!("prompt {} tokens, ", prompt.len()))
            && err.contains("generated 8 tokens"),
        "{err}"
    );
}

#[test]
fn run_without_tokenizer_takes_and_gives_ids() {
    let line = ["run", "--prompt-ids", "3, 1,4", "--max-tokens", "4", "--ignore-eos"];
    let (result, out, _) = run_line(&line, false);
    result.expect("it runs");
    let ids: Vec<i32> = out.split_whitespace().map(|id| id.parse().expect("an id")).collect();
    assert_eq!(ids, greedy(&[3, 1, 4], 4));
    let (result, out, _) = run_line(&["run", "--prompt", "text"], false);
    let error = result.expect_err("there is no tokenizer");
    assert_eq!((error.code(), error.exit_code(), out.as_str()), ("E0601", 2, ""));
    let (_, _, shown) = with_streams("", |streams| {
        streams.report(&error);
        Ok(())
    });
    assert!(shown.starts_with("E0601\n\n  x the model has no tokenizer"), "{shown}");
    assert!(shown.contains("\n  help: give token ids with --prompt-ids 1,2,3"), "{shown}");
}

#[test]
fn run_as_json_is_one_object() {
    let line = ["run", "--prompt-ids", "3,1,4", "--max-tokens", "5", "--json", "--temperature"];
    let with_seed = |seed: &str| {
        let (result, out, err) = run_line(&[&line[..], &["1.5", "--seed", seed]].concat(), true);
        result.expect("it runs");
        assert_eq!(err, "");
        serde_json::from_str::<Value>(&out).expect("one object")
    };
    let object = with_seed("9");
    assert_eq!(object["prompt_ids"], json!([3, 1, 4]));
    assert_eq!(object["ids"].as_array().map(Vec::len), Some(5));
    assert_eq!((&object["reason"], &object["threads"]), (&json!("max_tokens"), &json!(2)));
    assert!(object["text"].is_string() && object["time_to_first_token_s"].is_f64());
    assert_eq!(object["ids"], with_seed("9")["ids"]);
    assert_ne!(object["ids"], with_seed("10")["ids"]);
}

#[test]
fn recommended_sampling_is_used_unless_told_otherwise() {
    let recommended = Recommended {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: None,
    };
    let args = |line: &[&str]| match parse(line) {
        Command::Run { args, .. } => args.sampling,
        _ => panic!("not `run`"),
    };
    let silent = recommended.with(&args(&["run", "--prompt", "x"]));
    assert_eq!((silent.temperature, silent.top_p, silent.top_k), (0.6, 0.95, 0));
    let told = args(&["run", "--prompt", "x", "--temperature", "0", "--top-k", "5"]);
    assert_eq!((recommended.with(&told).temperature, recommended.with(&told).top_k), (0.0, 5));
    let greedy = Recommended { do_sample: None, ..recommended };
    assert_eq!(greedy.with(&args(&["run", "--prompt", "x"])).temperature, 0.0);
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_output_ends_the_command() {
    let Command::Run { args, .. } = parse(&["run", "--prompt-ids", "1,2"]) else { panic!("run") };
    let (mut input, mut out, mut err) = (io::empty(), Closed, Vec::new());
    let mut streams = streams(&mut input, &mut out, &mut err);
    let interrupt = Interrupt::detached();
    let (material, about) = (material(false), Map::new());
    let prompt = run::prompt(&material, &args).expect("ids");
    let ran = run::run(engine(), &material, prompt, &args, &about, &interrupt, &mut streams);
    let closed = ran.expect_err("nobody reads");
    assert!(matches!(closed, GenerateError::OutputClosed));
    // The reader's going is no fault: nothing is said, and the exit code is that of success.
    assert_eq!((closed.code(), closed.help(), closed.exit_code()), ("E0615", None, 0));
}

fn chat_with(input: &str, arguments: &[&str]) -> (Result<()>, String, String) {
    let line = [&["chat"], arguments].concat();
    let Command::Chat { args, .. } = parse(&line) else { panic!("not `chat`") };
    let interrupt = Interrupt::detached();
    with_streams(input, |streams| chat::chat(engine(), material(true), &args, &interrupt, streams))
}

/// The answer to a conversation, computed by hand.
fn answer(messages: &[Message], count: usize) -> String {
    let template = material(true).template().expect("it has one");
    let options = generate::chat::ChatOptions { add_generation_prompt: true, ..Default::default() };
    let text = template.render(messages, &options).expect("it renders");
    let tokenizer = material(true).tokenizer().expect("it has one").clone();
    let ids = tokenizer.encode(&text, generate::tokenize::Bos::AsWritten).expect("text");
    tokenizer.decode(&greedy(&ids, count), generate::tokenize::Specials::Skip).expect("text")
}

#[test]
fn chat_remembers_what_was_said() {
    let (result, out, _) = chat_with("Hello\n\nAgain\r\n/exit\nnever\n", &["--max-tokens", "3"]);
    result.expect("it runs");
    let mut messages = vec![Message::new("user", "Hello")];
    let first = answer(&messages, 3);
    messages.extend([Message::new("assistant", &*first), Message::new("user", "Again")]);
    assert_eq!(out, format!("{first}\n{}\n", answer(&messages, 3)));
    let (result, out, _) = chat_with("Hello\n/reset\nHello", &["--max-tokens", "3"]);
    result.expect("it runs");
    assert_eq!(out, format!("{first}\n{first}\n"), "the last line has no end");
    let (result, out, _) = chat_with("Hello\n", &["--max-tokens", "3", "--system", "Be brief."]);
    result.expect("it runs");
    let briefed = [Message::new("system", "Be brief."), Message::new("user", "Hello")];
    assert_eq!(out, format!("{}\n", answer(&briefed, 3)));
}

#[test]
fn a_turn_that_does_not_fit_is_forgotten() {
    let long = "long ".repeat(200);
    let (result, out, err) = chat_with(&format!("{long}\nHello\n"), &["--max-tokens", "3"]);
    result.expect("it goes on");
    assert!(err.starts_with("E0612\n\n  x the prompt has "), "{err}");
    assert_eq!(out, format!("{}\n", answer(&[Message::new("user", "Hello")], 3)));
    let Command::Chat { args, .. } = parse(&["chat"]) else { panic!("not `chat`") };
    let (none, ..) = with_streams("Hello\n", |streams| {
        chat::chat(engine(), material(false), &args, &Interrupt::detached(), streams)
    });
    assert_eq!(none.expect_err("no tokenizer").code(), "E0601");
}

#[test]
fn a_line_without_tokens_of_its_own_is_forgotten() {
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "?"},
    });
    let config = json!({"chat_template": "{{ messages[-1].content }}"});
    let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
    let files = Files {
        tokenizer: Some(tokenizer.as_bytes()),
        tokenizer_config: Some(config.as_bytes()),
        ..Files::default()
    };
    let material = Material::new(files, &[], &[], Recommended::default()).expect("sound files");
    let Command::Chat { args, .. } = parse(&["chat", "--max-tokens", "3"]) else { panic!("chat") };
    let (result, out, err) = with_streams("a what\na b\n", |streams| {
        let engine = FakeEngine::new(2, 64, 4, 20);
        chat::chat(engine, material, &args, &Interrupt::detached(), streams)
    });
    result.expect("it goes on");
    assert!(err.starts_with("E0603\n") && err.contains("this line was forgotten"), "{err}");
    assert_eq!(out.split_whitespace().count(), 3, "one answer: {out}");
}

#[test]
fn logits_files_hold_every_position() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let prompts = vec![vec![5, 6, 7, 8, 9], vec![3], vec![1, 2]];
    let ids = folder.path().join("ids.json");
    std::fs::write(&ids, serde_json::to_vec(&prompts).expect("JSON")).expect("writable");
    let out = folder.path().join("out.safetensors");
    let (file, out_text) = (ids.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    for extra in [&[][..], &["--batched", "--chunk", "2"], &["--chunk", "1"]] {
        let line = [&["logits", "--tokens", file, "-o", out_text], extra].concat();
        let Command::Logits { args, .. } = parse(&line) else { panic!("not `logits`") };
        let prompts = ids::sequences(&args.tokens).expect("ids");
        let mut engine = FakeEngine::new(33, 64, 4, 20);
        logits::write_logits(&mut engine, &prompts, args.feed(), &args.output).expect("it runs");
        let bytes = std::fs::read(&out).expect("it was written");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("well formed");
        assert_eq!(tensors.len(), 3);
        for (i, prompt) in prompts.iter().enumerate() {
            let tensor = tensors.tensor(&format!("logits.{i}")).expect("it is there");
            assert_eq!(tensor.shape(), [prompt.len(), 33]);
            let expected: Vec<u8> = (1..=prompt.len())
                .flat_map(|n| logits_after(prompt[..n].iter().copied(), 33))
                .flat_map(f32::to_le_bytes)
                .collect();
            assert_eq!(tensor.data(), expected, "{extra:?}");
        }
    }
    let before = std::fs::read(&out).expect("it is there");
    let mut failing = FakeEngine::new(33, 64, 4, 20);
    failing.fail_at = Some(1);
    let failed = logits::write_logits(&mut failing, &prompts, Feed::Chunked(2), &out);
    assert_eq!(failed.expect_err("the engine fails").code(), "E0509");
    assert_eq!(std::fs::read(&out).expect("it is there"), before, "half a file was left");
    let names = std::fs::read_dir(folder.path()).expect("readable").count();
    assert_eq!(names, 2, "a temporary file was left");
}

/// Writes goldens of the fake engine, with `noise` added to the logits of the second prompt.
fn write_goldens(folder: &Path, noise: f32) -> std::path::PathBuf {
    let prompts = [vec![1_i32, 2, 3], vec![4, 5, 6, 7]];
    let mut described = Vec::new();
    let mut data: Vec<(String, Vec<usize>, safetensors::Dtype, Vec<u8>)> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let first = i;
        let rows = (first + 1..=prompt.len())
            .flat_map(|n| logits_after(prompt[..n].iter().copied(), 33))
            .flat_map(|v| (v + noise * i as f32).to_le_bytes());
        let ids = prompt.iter().flat_map(|id| i64::from(*id).to_le_bytes());
        let shape = vec![prompt.len() - first, 33];
        data.push((format!("p{i}.logits"), shape, safetensors::Dtype::F32, rows.collect()));
        let length = vec![prompt.len()];
        data.push((format!("p{i}.input_ids"), length, safetensors::Dtype::I64, ids.collect()));
        let greedy = greedy_33(prompt, 6);
        let mut listed = greedy.clone();
        listed[4] = 99;
        described.push(json!({"index": i, "logit_positions": [first, prompt.len()],
            "greedy_ids": listed, "first_small_margin_step": 4}));
    }
    let views = data.iter().map(|(name, shape, dtype, bytes)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (name, view.expect("shape and bytes agree"))
    });
    let json = folder.join("g.json");
    let bytes = safetensors::serialize(views, None).expect("serializable");
    std::fs::write(folder.join("g.safetensors"), bytes).expect("writable");
    std::fs::write(&json, json!({"prompts": described}).to_string()).expect("writable");
    json
}

fn greedy_33(prompt: &[i32], count: usize) -> Vec<i32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let row = logits_after(tokens.iter().copied(), 33);
        let best = (0..33).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("ids");
        tokens.push(best as i32);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn goldens_are_compared_row_by_row() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let all = goldens::read(&write_goldens(folder.path(), 0.5)).expect("well formed");
    let mut engine = FakeEngine::new(33, 64, 4, 20);
    let exact = Bounds::of(&BTreeMap::new(), Some(0.01)).expect("bounds");
    let found = goldens::compare(&mut engine, &all, 2, &exact).expect("it runs");
    let (same, off) = (&found[0], &found[1]);
    assert!(same.ok && same.max_relative_error == 0.0, "{same:?}");
    assert_eq!((same.relative_errors.len(), same.greedy_tokens, same.greedy_equal), (3, 4, 4));
    assert!(!off.ok && off.max_relative_error > 0.05 && off.max_relative_error < 1.0, "{off:?}");
    assert_eq!((off.first_position, off.relative_errors.len(), off.greedy_equal), (1, 3, 4));
    let mut other = FakeEngine::new(34, 64, 4, 20);
    let vocabulary = goldens::compare(&mut other, &all[..1], 2, &exact);
    assert_eq!(vocabulary.expect_err("34 is not 33").code(), "E0618");
}

/// In bf16 rows of a prompt with a close choice of experts may be off, as long as most prompts
/// are near; greedy tokens count while no error could turn them.
#[test]
fn goldens_excuse_what_bf16_may_turn() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut all = goldens::read(&write_goldens(folder.path(), 0.5)).expect("well formed");
    all.push(all[0].clone());
    let bf16 = BTreeMap::from([("compute".to_owned(), "bf16".to_owned())]);
    let bounds = Bounds::of(&bf16, None).expect("bounds");
    let compared = |all: &[goldens::Golden]| {
        let mut engine = FakeEngine::new(33, 64, 4, 20);
        let prompts = goldens::compare(&mut engine, all, 2, &bounds).expect("it runs");
        Compared { bounds, prompts }
    };
    let code = |all: &[goldens::Golden]| compared(all).verdict().err().map(|e| e.code());
    assert_eq!(code(&all), Some("E0619"), "no gap, no excuse");
    all[1].gap = Some(0.1);
    assert_eq!(code(&all), Some("E0619"), "the gap is too wide");
    all[1].gap = Some(1e-3);
    let found = compared(&all);
    assert!(found.verdict().is_ok());
    let object = found.object();
    assert_eq!(object["prompts"][1]["excused_positions"], json!([1, 2, 3]));
    assert_eq!((&object["ok"], &object["worst"]["prompt"]), (&json!(true), &json!(1)));
    let (_, table, _) = with_streams("", |streams| found.print(streams));
    assert!(table.contains("; excused positions 1-3 (gap 1.0e-3)\n"), "{table}");
    // Half of the prompts and more are no outliers.
    assert_eq!(code(&all[..2]), Some("E0621"));
    // Without margins no greedy token is sure; with them the fifth is too close.
    assert_eq!(found.prompts[0].greedy_tokens, 0);
    all[0].margins = Some(vec![1.0, 1.0, 0.0, 1.0]);
    assert_eq!(compared(&all).prompts[0].greedy_equal, 2);
    all[0].greedy[1] += 1;
    assert_eq!(code(&all), Some("E0619"));
    all[0].greedy_gap = Some(1e-3);
    assert!(compared(&all).prompts[0].greedy_excused && code(&all).is_none());
}

#[test]
fn damaged_goldens_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let json = write_goldens(folder.path(), 0.0);
    let text = std::fs::read_to_string(&json).expect("it was written");
    for (from, to) in [
        ("[0,3]", "[0,2]"),
        ("[0,3]", "[0,9]"),
        ("[0,3]", "[3,3]"),
        ("\"index\":1", "\"index\":5"),
        ("{", "["),
    ] {
        assert!(text.contains(from));
        std::fs::write(&json, text.replace(from, to)).expect("writable");
        assert_eq!(goldens::read(&json).expect_err(to).code(), "E0618");
    }
    // Margins that are there are of the type that is read.
    let tensors = folder.path().join("g.safetensors");
    let bytes = std::fs::read(&tensors).expect("it was written");
    let views = safetensors::SafeTensors::deserialize(&bytes).expect("well formed");
    let ids = views.tensor("p0.input_ids").expect("it was written");
    let margins = views.iter().chain([("p0.greedy_margin", ids)]);
    let more = safetensors::serialize(margins, None).expect("serializable");
    std::fs::write(&tensors, more).expect("writable");
    std::fs::write(&json, &text).expect("writable");
    let error = goldens::read(&json).expect_err("margins as integers").to_string();
    assert!(error.contains("p0.greedy_margin is I64, expected F32"), "{error}");
    // Nothing to compare is no success.
    std::fs::write(&json, json!({"prompts": []}).to_string()).expect("writable");
    let error = goldens::read(&json).expect_err("no prompts");
    assert!(error.to_string().contains("found no prompts"), "{error}");
    std::fs::remove_file(folder.path().join("g.safetensors")).expect("it was there");
    std::fs::write(&json, text).expect("writable");
    assert_eq!(goldens::read(&json).expect_err("no tensors").code(), "E0615");
}

#[test]
fn the_reference_goldens_can_be_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny-v3.json");
    let all = goldens::read(&path).expect("well formed");
    assert_eq!(all.len(), 6);
    assert_eq!((all[3].input.len(), all[3].first, all[3].logits.len()), (64, 0, 64 * VOCAB));
    assert_eq!((all[5].input.len(), all[5].first, all[5].greedy.len()), (700, 692, 48));
}

#[test]
fn bench_feeds_what_was_asked_for() {
    let line = ["bench", "--prompt-tokens", "10", "--gen-tokens", "5", "--context", "20"];
    let line = [&line[..], &["--chunk", "4", "--repeat", "1"]].concat();
    let Command::Bench { args, .. } = parse(&line) else { panic!("not `bench`") };
    let mut fake = FakeEngine::new(VOCAB, 64, 4, 20);
    bench::measure(&mut fake, &args.measure).expect("it runs");
    let measured = &fake.steps[fake.steps.len() - 11..];
    let expected = [4, 4, 2, 4, 4, 2, 1, 1, 1, 1, 1].map(|n| vec![n]);
    assert_eq!(measured, expected);
    // A prompt's logits are wanted at its end, those of generated tokens at each.
    assert_eq!(fake.given[fake.given.len() - 11..], [0, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1]);
    let mut small = FakeEngine::new(VOCAB, 24, 4, 20);
    assert_eq!(bench::measure(&mut small, &args.measure).expect_err("25 > 24").code(), "E0612");
    let mut few = FakeEngine::new(VOCAB, 64, 4, 6);
    assert_eq!(bench::measure(&mut few, &args.measure).expect_err("7 pages").code(), "E0612");
}

#[test]
fn arguments_are_checked() {
    let parse = |line: &[&str]| {
        let words = ["latentc"].iter().chain(line);
        Own::<FileArg>::try_parse_from(words).map(|own| own.command)
    };
    assert!(parse(&["run", "FILE"]).is_err(), "a prompt is required");
    assert!(parse(&["run", "FILE", "--prompt", "a", "--prompt-ids", "1"]).is_err());
    assert!(parse(&["run", "--prompt", "a"]).is_err(), "a file is required");
    assert!(parse(&["run", "FILE", "--prompt", "a", "--threads", "0"]).is_err());
    assert!(parse(&["bench", "FILE", "--chunk", "0"]).is_err());
    let Ok(Command::Inspect { file, args }) = parse(&["inspect", "FILE", "--json"]) else {
        panic!("it is well formed")
    };
    assert_eq!((file.file.to_str(), args.json), (Some("FILE"), true));
}
