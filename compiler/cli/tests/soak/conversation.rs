//! A deployed executable talks for as long as the soak goes on.
//!
//! Each answer is compared with that of a new process that continues the same tokens. The model is
//! compiled with `-C batch-invariant`: a token's logits are the same to the bit however its prompt
//! is divided, of which earlier turns have left a part; and random numbers depend on seed and
//! position alone. So answers are equal to the byte, and one that was stopped is the beginning of
//! the whole one.

use crate::chat::Chat;
use crate::dice::Dice;
use crate::held::Watch;
use crate::lines;
use crate::support::{latentc, root};
use crate::{Soak, long, seed};
use generate::chat::{ChatOptions, ChatTemplate, Message};
use generate::command::material::{Files, Material, Recommended};
use generate::tokenize::{Bos, Specials, TextStream, Tokenizer};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Tokens of a conversation at most: few, so that it is often full.
const CONTEXT: usize = 384;
/// Tokens of an answer at most.
const ANSWER: usize = 96;
/// Words that the tokenizer keeps the tokens of, at most, and some more.
const WORDS_KEPT: usize = 12_000;
/// Turns before it ends, however short the soak is.
const LEAST_TURNS: u64 = 12;

const FORGOTTEN: &str = "this line was forgotten; /reset begins a new conversation\n";
const FULL: &str = "stopped: the context is full; /reset begins a new conversation\n";

/// What was met.
#[derive(Debug, Default)]
struct Counts {
    turns: u64,
    answers: u64,
    stopped: u64,
    stopped_before_a_token: u64,
    refused: u64,
    full: u64,
    resets: u64,
    tokens: u64,
}

/// The answer of a fresh run.
struct Fresh {
    text: String,
    tokens: usize,
    /// Whether the model ended it.
    ended: bool,
    /// Bytes of all its tokens but the last: while fewer were said, at least one step is to come.
    before_last: usize,
}

/// An executable, the chat that it leads, and all that was said.
struct Talk {
    executable: PathBuf,
    seed: String,
    chat: Chat,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    messages: Vec<Message>,
    counts: Counts,
    _folder: TempDir,
}

/// Options of both runs; a fresh one feeds its prompt as a whole. Sampling is what the model
/// recommends.
fn options(seed: &str) -> [&str; 4] {
    ["--seed", seed, "--threads", "2"]
}

fn model() -> PathBuf {
    root().join("examples/models/tiny-v3")
}

fn compiled(folder: &Path) -> PathBuf {
    let (model, out) = (model(), folder.join("model"));
    let args = ["compile", model.to_str().unwrap(), "-o", out.to_str().unwrap(), "-q"];
    // By the default target, unless that would take longer than the soak.
    let quick = if long() { &[][..] } else { &["-C", "backend=cranelift"] };
    let ran = latentc(&[&args[..], &["-C", "batch-invariant=true"], quick].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    out
}

fn material() -> Material {
    let file = |name: &str| fs::read(model().join(name)).unwrap();
    let (tokenizer, config) = (file("tokenizer.json"), file("tokenizer_config.json"));
    let files =
        Files { tokenizer: Some(&tokenizer), tokenizer_config: Some(&config), ..Files::default() };
    Material::new(files, &[], &[], Recommended::default()).unwrap()
}

impl Talk {
    fn begin(seed: u64) -> Talk {
        let folder = tempfile::tempdir().unwrap();
        let (executable, seed) = (compiled(folder.path()), seed.to_string());
        let (context, answer) = (CONTEXT.to_string(), ANSWER.to_string());
        // In small parts, between which it can be stopped.
        let limits = ["--context", &context, "--max-tokens", &answer, "--chunk", "16"];
        let chat = Chat::start(&executable, &[&options(&seed)[..], &limits].concat());
        let material = material();
        let tokenizer = Arc::clone(material.tokenizer().unwrap());
        let (messages, counts) = (vec![], Counts::default());
        let template = material.template().unwrap();
        Talk { executable, seed, chat, tokenizer, template, messages, counts, _folder: folder }
    }

    /// Token ids of the conversation and of what is said next.
    fn prompt(&self, line: &str) -> Vec<i32> {
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let messages = [&self.messages[..], &[Message::new("user", line)]].concat();
        let text = self.template.render(&messages, &options).unwrap();
        self.tokenizer.encode(&text, Bos::AsWritten).unwrap()
    }

    /// What a new process answers.
    fn fresh(&self, prompt: &[i32], most: usize) -> Result<Fresh, String> {
        let ids: Vec<String> = prompt.iter().map(i32::to_string).collect();
        let mut command = Command::new(&self.executable);
        command.args(["run", "--json", "--prompt-ids", &ids.join(",")]).args(options(&self.seed));
        let ran = command.args(["--max-tokens", &most.to_string()]).output().unwrap();
        if !ran.status.success() {
            return Err(format!("a fresh run: {}", String::from_utf8_lossy(&ran.stderr)));
        }
        let object: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let ids = object["ids"].as_array().unwrap().iter();
        let ids: Vec<i32> = ids.map(|id| id.as_i64().unwrap() as i32).collect();
        let mut stream = TextStream::new(Specials::Skip);
        let before_last = ids[..ids.len() - 1].iter();
        let sizes = before_last.map(|id| stream.push(&self.tokenizer, *id).unwrap().len());
        Ok(Fresh {
            before_last: sizes.sum(),
            text: object["text"].as_str().unwrap().to_string(),
            tokens: ids.len(),
            ended: object["reason"] == "stop",
        })
    }

    /// Says a line and expects what must come of it.
    fn turn(&mut self, line: &[u8], dice: &mut Dice) -> Result<(), String> {
        self.counts.turns += 1;
        self.chat.silent()?;
        let text = String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_string();
        match text.trim() {
            "" => self.chat.send(line),
            "/reset" => self.reset(),
            _ => self.message(line, &text, dice),
        }
    }

    fn reset(&mut self) -> Result<(), String> {
        self.counts.resets += 1;
        self.messages.clear();
        self.chat.send(b"/reset")
    }

    /// Expects a refusal or an answer.
    fn message(&mut self, line: &[u8], text: &str, dice: &mut Dice) -> Result<(), String> {
        let prompt = self.prompt(text);
        if prompt.len() > CONTEXT {
            self.chat.send(line)?;
            self.refusal(prompt.len())?;
            return if dice.percent(30) { self.reset() } else { Ok(()) };
        }
        // The token that fills the context is still said.
        let most = ANSWER.min(CONTEXT - prompt.len()).max(1);
        let fresh = self.fresh(&prompt, most)?;
        let whole = fresh.text.clone() + "\n";
        self.counts.answers += 1;
        let before = self.chat.computed();
        self.chat.send(line)?;
        let stopped = self.stopped(&fresh, &whole, before, dice)?;
        if stopped.is_none() {
            self.chat.answer(&whole)?;
            self.counts.tokens += fresh.tokens as u64;
            if !fresh.ended && most < ANSWER {
                self.counts.full += 1;
                self.chat.noted(FULL)?;
            }
        }
        let said = stopped.unwrap_or(fresh.text);
        self.messages.extend([Message::new("user", text), Message::new("assistant", said)]);
        Ok(())
    }

    /// Expects that so many tokens are too many.
    fn refusal(&mut self, tokens: usize) -> Result<(), String> {
        self.counts.refused += 1;
        self.chat.noted(&format!(
            "E0612\n\n  x the prompt has {tokens} tokens, the context holds {CONTEXT}\n  \
             help: shorten the prompt to at most {CONTEXT} tokens\n{FORGOTTEN}"
        ))
    }

    /// Stops some answers: before anything is said, or anywhere in it. Gives what was said then.
    fn stopped(
        &mut self,
        fresh: &Fresh,
        whole: &str,
        before: Duration,
        dice: &mut Dice,
    ) -> Result<Option<String>, String> {
        match dice.below(100) {
            0..10 => self.chat.computing(before, whole)?,
            10..45 => self.chat.begun(whole, 1 + dice.below(fresh.before_last.max(1)))?,
            _ => return Ok(None),
        }
        if !self.chat.press_ctrl_c(fresh.before_last)? {
            return Ok(None);
        }
        let out = self.chat.stopped()?;
        self.counts.stopped += 1;
        let said = out.strip_suffix('\n').ok_or_else(|| format!("{out:?} has no end"))?;
        self.counts.stopped_before_a_token += u64::from(said.is_empty());
        // A character of which a part was said ends as U+FFFD.
        let certain = said.strip_suffix('\u{FFFD}').unwrap_or(said);
        if fresh.text.starts_with(certain) && said.len() < whole.len() {
            return Ok(Some(said.to_string()));
        }
        Err(format!("a fresh run says {:?}, this one, stopped, {said:?}", fresh.text))
    }
}

/// What every soak meets, before its memory counts: a line too long, a full context, Ctrl-C. In
/// an hour also all words that are ever kept, by lines so short that they leave little memory free.
fn warm_up(talk: &mut Talk, dice: &mut Dice) -> Result<(), String> {
    let kept = if long() { WORDS_KEPT } else { 500 };
    for first in (0..kept).step_by(500) {
        talk.turn(&lines::distinct(first..first + 500), dice)?;
    }
    let mut long = String::from("Seven days");
    for _ in 0..100 {
        talk.reset()?;
        if talk.counts.full == 0 {
            while talk.prompt(&long).len() < CONTEXT - 8 {
                long += " and seven";
            }
            talk.turn(long.as_bytes(), dice)?;
            long.replace_range(..10, ["Why seven?", "Ten houses", "And he saw"][dice.below(3)]);
        } else if talk.counts.stopped == 0 {
            talk.turn(b"And the LORD said unto Moses,", dice)?;
        } else {
            return Ok(());
        }
    }
    Err(format!("some things never happen: {:?}", talk.counts))
}

#[test]
fn a_conversation_goes_on() {
    let seed = seed();
    let mut talk = Talk::begin(seed);
    let warm = warm_up(&mut talk, &mut Dice::new(seed, 0));
    warm.unwrap_or_else(|e| panic!("seed {seed}, before turn 1: {e}\n{:#?}", talk.messages));
    let mut soak = Soak::begin("conversation", seed);
    let mut watch = Watch::new(talk.chat.pid());
    let mut turn = 0;
    while soak.part() < 1.0 || turn < LEAST_TURNS {
        turn += 1;
        let mut dice = Dice::new(seed, turn);
        let line = lines::draw(&mut dice);
        talk.turn(&line, &mut dice).unwrap_or_else(|e| {
            let sent = String::from_utf8_lossy(&line);
            panic!("seed {seed}, turn {turn}: {e}\nsent {sent:?}, after {:#?}", talk.messages)
        });
        watch.look(&soak);
        soak.tell(&|| format!("{:?}, {}", talk.counts, watch.told()));
    }
    soak.say(&format!("{:?}, {}", talk.counts, watch.told()));
    talk.chat.end(seed.is_multiple_of(2)).unwrap_or_else(|e| panic!("seed {seed}, the end: {e}"));
    watch.check();
}

#[test]
fn ctrl_c_before_an_answer_begins_ends_no_conversation() {
    /// Encoded for far longer than it is read.
    const WORDS: usize = 300_000;
    let mut talk = Talk::begin(1);
    let tokens = |count| talk.prompt(&"seven ".repeat(count)).len();
    let (tokens, long) =
        (tokens(1) + (tokens(2) - tokens(1)) * (WORDS - 1), "seven ".repeat(WORDS));
    let mut press = || {
        talk.chat.send(long.as_bytes())?;
        talk.chat.busy(Duration::from_millis(50))?;
        let pressed = talk.chat.press_ctrl_c(1)?;
        talk.refusal(tokens)?;
        Ok(pressed)
    };
    // Whoever comes too late tries again.
    let pressed = (0..10).any(|_| press().unwrap_or_else(|e: String| panic!("{e}")));
    assert!(pressed, "it is encoded too fast");
    let turned = talk.turn(b"And the LORD said unto Moses,", &mut Dice::new(1, 0));
    turned.and_then(|()| talk.chat.end(true)).unwrap_or_else(|e| panic!("{e}"));
}
