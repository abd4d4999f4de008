//! Many sequences at once on a session that is used for as long as the soak goes on: prompts that
//! begin alike, pages that run out, sequences that are cancelled between any two steps.
//!
//! Each sequence is compared with the same request alone on a new session. The model is compiled
//! with `-C batch-invariant`: a token's logits are the same to the bit whatever else is in its
//! steps and however its prompt was divided, and random numbers depend on seed and position alone.
//! So the tokens are equal, and those of a cancelled sequence are the first of them.

use crate::dice::Dice;
use crate::held::Watch;
use crate::support::{latentc, root};
use crate::{Soak, seed};
use generate::engine::{Engine, LoadOptions, Model, ModelEngine, Part};
use generate::sample::Sampling;
use generate::schedule::{Bounds, Progress, Scheduler};
use generate::sequence::{FinishReason, Request};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set in the process of its own whose memory counts.
const CHILD: &str = "LATENTC_SOAK_BATCHES";
/// Rows of all pages together, and of the longest sequence.
const ROWS: usize = 256;
/// Rows of a page.
const PAGE: &str = "page=16";
/// Episodes in which everything is surely met, however short the soak is.
const ENOUGH: u64 = 200;
/// One in so many episodes ends with nothing kept for the next; odd, so that every server has some.
const EPISODES_KEPT: u64 = 5;
/// Steps after which an episode surely has no end.
const ENDLESS: usize = 100_000;

type Result<T> = std::result::Result<T, String>;

/// An engine that counts what it is fed.
struct Fed {
    engine: ModelEngine,
    tokens: usize,
}

impl Engine for Fed {
    fn vocab(&self) -> usize {
        self.engine.vocab()
    }

    fn context(&self) -> usize {
        self.engine.context()
    }

    fn page_tokens(&self) -> usize {
        self.engine.page_tokens()
    }

    fn pages_total(&self) -> usize {
        self.engine.pages_total()
    }

    fn step(&mut self, parts: &[Part<'_>]) -> generate::Result<&[f32]> {
        self.tokens += parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        self.engine.step(parts)
    }
}

/// A request of an episode, and when things happen to it.
#[derive(Debug)]
struct Asked {
    request: Request,
    /// Before which step it is submitted.
    at: usize,
    /// Before which step it is cancelled.
    cancel: Option<usize>,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    refused: Option<&'static str>,
    tokens: Vec<i32>,
    reason: Option<FinishReason>,
    reused: usize,
}

/// What was met.
#[derive(Debug, Default)]
struct Counts {
    episodes: u64,
    requests: u64,
    refused: u64,
    cancelled: u64,
    full: u64,
    /// Requests that began with states of earlier ones.
    reused: u64,
    /// Episodes in which a sequence gave way and was computed again.
    gave_way: u64,
    tokens: u64,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        use FinishReason::{Cancelled, ContextFull, PagesFull};
        self.requests += 1;
        self.refused += u64::from(outcome.refused.is_some());
        self.cancelled += u64::from(outcome.reason == Some(Cancelled));
        self.full += u64::from(matches!(outcome.reason, Some(ContextFull | PagesFull)));
        self.reused += u64::from(outcome.reused > 0);
        self.tokens += outcome.tokens.len() as u64;
    }

    /// Whether all was met that makes a difference.
    fn complete(&self) -> bool {
        let Counts { refused, cancelled, reused, gave_way, .. } = *self;
        [refused, cancelled, reused, gave_way].iter().all(|n| *n > 0)
    }
}

/// A prompt of any ids, often one that begins like an earlier one.
fn prompt(dice: &mut Dice, earlier: &[Asked], vocab: usize) -> Vec<i32> {
    let mut prompt = vec![];
    if !earlier.is_empty() && dice.percent(60) {
        let begun = &dice.of(earlier).request.prompt;
        prompt.extend(&begun[..dice.below(begun.len() + 1)]);
    }
    let more = match dice.below(20) {
        0 => 0,
        1 => dice.within(ROWS..ROWS + 20),
        2..8 => dice.within(30..120),
        _ => dice.within(1..30),
    };
    prompt.extend((0..more).map(|_| dice.below(vocab) as i32));
    if dice.percent(2) {
        prompt.push(vocab as i32);
    }
    prompt
}

fn request(dice: &mut Dice, prompt: Vec<i32>, vocab: usize) -> Request {
    let temperature = if dice.percent(60) { 0.0 } else { 0.8 };
    let seed = dice.below(1000) as u64;
    Request {
        prompt,
        max_tokens: dice.below(80),
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        stop: (0..vocab / 50).map(|_| dice.below(vocab) as i32).collect(),
        cancel: None,
        retain: dice.percent(75),
    }
}

fn episode(dice: &mut Dice, vocab: usize) -> Vec<Asked> {
    let mut all: Vec<Asked> = vec![];
    for _ in 0..dice.within(4..20) {
        let prompt = prompt(dice, &all, vocab);
        let request = request(dice, prompt, vocab);
        let at = if dice.percent(40) { 0 } else { dice.below(80) };
        let cancel = dice.percent(30).then(|| at + dice.below(40));
        all.push(Asked { request, at, cancel });
    }
    all
}

/// The widest steps that there are, so that all memory is grown to what they need; and more tokens
/// than there are pages for.
fn widest() -> Vec<Asked> {
    let request = |i| Request { prompt: vec![i; 12], max_tokens: 24, ..Request::default() };
    (0..12).map(|i| Asked { request: request(i), at: 0, cancel: None }).collect()
}

/// Plays an episode to its end.
fn play(scheduler: &mut Scheduler<Fed>, episode: &[Asked]) -> Result<Vec<Outcome>> {
    let flags: Vec<Arc<AtomicBool>> = episode.iter().map(|_| Arc::default()).collect();
    let mut outcomes = vec![Outcome::default(); episode.len()];
    let (mut ids, mut events) = (vec![None; episode.len()], vec![]);
    let last = episode.iter().map(|asked| asked.at).max();
    for step in 0..ENDLESS {
        for (i, asked) in episode.iter().enumerate() {
            if asked.at == step {
                let cancel = Some(Arc::clone(&flags[i]));
                let submitted = scheduler.submit(Request { cancel, ..asked.request.clone() });
                ids[i] = submitted.map_err(|e| outcomes[i].refused = Some(e.code())).ok();
            }
            flags[i].store(asked.cancel.is_some_and(|at| at <= step), Ordering::Relaxed);
        }
        scheduler.step(&mut events).map_err(|e| e.to_string())?;
        for (id, progress) in events.drain(..) {
            let at = ids.iter().position(|known| *known == Some(id)).ok_or("an unknown id")?;
            let outcome = &mut outcomes[at];
            if outcome.reason.is_some() {
                return Err(format!("{at}: {progress:?} after its end"));
            }
            match progress {
                Progress::Token(token) => outcome.tokens.push(token),
                Progress::Finished(reason, stats) => {
                    outcome.reason = Some(reason);
                    outcome.reused = stats.reused_tokens;
                }
                Progress::Failed(error) => return Err(error.to_string()),
            }
        }
        if Some(step) >= last && scheduler.is_idle() {
            return Ok(outcomes);
        }
    }
    Err("it has no end".into())
}

fn scheduler(model: &Arc<Model>, bounds: Bounds) -> Scheduler<Fed> {
    let engine = ModelEngine::new(model, ROWS).unwrap();
    Scheduler::new(Fed { engine, tokens: 0 }, bounds, None)
}

/// What a request gives alone on a new session.
fn alone(model: &Arc<Model>, asked: &Asked) -> Result<Outcome> {
    let request = asked.request.clone();
    let asked = Asked { request, at: 0, cancel: None };
    Ok(play(&mut scheduler(model, Bounds::default()), &[asked])?.remove(0))
}

/// A model that is served in some way.
struct Server {
    model: Arc<Model>,
    scheduler: Scheduler<Fed>,
}

impl Server {
    fn new(model: &Arc<Model>, chunk: usize, sequences: usize) -> Server {
        let scheduler = scheduler(model, Bounds { chunk, sequences });
        Server { model: Arc::clone(model), scheduler }
    }

    fn vocab(&self) -> usize {
        self.scheduler.engine().vocab()
    }

    /// Plays an episode here, and each of its requests alone.
    fn serve(&mut self, episode: &[Asked], counts: &mut Counts) -> Result<()> {
        let told = |e: String| format!("{e}\nin {episode:#?}");
        let before = self.scheduler.engine().tokens;
        let outcomes = play(&mut self.scheduler, episode).map_err(told)?;
        let mut least = 0;
        for (asked, outcome) in episode.iter().zip(&outcomes) {
            let alone = alone(&self.model, asked).map_err(told)?;
            let cut = outcome.reason == Some(FinishReason::Cancelled);
            let same = (outcome.refused, outcome.reason) == (alone.refused, alone.reason);
            let equal = if cut { alone.tokens.starts_with(&outcome.tokens) } else { same };
            if !equal || (!cut && outcome.tokens != alone.tokens) {
                return Err(told(format!("{outcome:?}, alone {alone:?}, of {asked:?}")));
            }
            let prompt = if outcome.refused.is_some() { 0 } else { asked.request.prompt.len() };
            least += prompt + outcome.tokens.len();
            counts.add(outcome);
        }
        counts.episodes += 1;
        counts.gave_way += u64::from(self.scheduler.engine().tokens - before > least);
        Ok(())
    }

    /// Has a prompt take all pages, so that nothing is kept; none may be lost.
    fn forget(&mut self) -> Result<()> {
        let vocab = self.vocab();
        let prompt = (0..ROWS).map(|i| (i % vocab) as i32).collect();
        let request = Request { prompt, max_tokens: 1, ..Request::default() };
        let outcomes = play(&mut self.scheduler, &[Asked { request, at: 0, cancel: None }])?;
        let (free, all) = (self.scheduler.free_pages(), self.scheduler.engine().pages_total());
        if outcomes[0].tokens.len() == 1 && free == all {
            return Ok(());
        }
        Err(format!("{free} of {all} pages are free when nothing runs: {outcomes:?}"))
    }
}

fn compiled(model: &Path, folder: &Path) -> Arc<Model> {
    let out = folder.join("model");
    let args = ["compile", model.to_str().unwrap(), "-o", out.to_str().unwrap(), "-q"];
    let own = ["--emit", "artifact", "-C", "backend=cranelift", "-C", PAGE];
    let ran = latentc(&[&args[..], &own, &["-C", "batch-invariant=true"]].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    Arc::new(Model::open(&out, &options).unwrap())
}

fn soak() {
    let (seed, folder) = (seed(), tempfile::tempdir().unwrap());
    let model = compiled(&root().join("examples/models/tiny-v3"), folder.path());
    let bounds = [(64, 6), (1, 4), (7, 12), (512, 8)];
    let mut servers = bounds.map(|(chunk, sequences)| Server::new(&model, chunk, sequences));
    let mut counts = Counts::default();
    for server in &mut servers {
        server.serve(&widest(), &mut counts).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut soak = Soak::begin("batches", seed);
    let mut watch = Watch::new(std::process::id());
    let mut number = 0;
    while soak.part() < 1.0 || (number < ENOUGH && !counts.complete()) {
        let server = &mut servers[(number % 4) as usize];
        number += 1;
        let episode = episode(&mut Dice::new(seed, number), server.vocab());
        let mut done = server.serve(&episode, &mut counts);
        if number % EPISODES_KEPT == 0 {
            done = done.and_then(|()| server.forget());
        }
        done.unwrap_or_else(|e| panic!("seed {seed}, episode {number}: {e}"));
        watch.look(&soak);
        soak.tell(&|| format!("{counts:?}, {}", watch.told()));
    }
    soak.say(&format!("{counts:?}, {}", watch.told()));
    watch.check();
    assert!(counts.complete(), "{counts:?}");
}

/// In a process of its own, so that no other test's memory counts.
#[test]
fn batches_go_on() {
    if std::env::var_os(CHILD).is_some() {
        return soak();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "batches::batches_go_on"]).env(CHILD, "1");
    let ran = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}
