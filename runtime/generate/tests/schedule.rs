//! The scheduler on an engine that reads its history back from pages.

mod fake;

use fake::{FakeEngine, logits_after};
use generate::GenerateError;
use generate::logits::{Feed, every_position};
use generate::sample::{Sampler, Sampling};
use generate::schedule::{Bounds, Progress, Scheduler};
use generate::sequence::{FinishReason, Request, SequenceId, Stats};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const VOCAB: usize = 50;

#[derive(Default)]
struct Outcome {
    tokens: Vec<i32>,
    end: Option<(FinishReason, Stats)>,
    error: Option<GenerateError>,
}

fn drain(scheduler: &mut Scheduler<FakeEngine>) -> BTreeMap<SequenceId, Outcome> {
    let mut outcomes = BTreeMap::<SequenceId, Outcome>::new();
    for _ in 0..10_000 {
        if scheduler.is_idle() {
            return outcomes;
        }
        let mut events = Vec::new();
        scheduler.step(&mut events).expect("the engine does not fail");
        for (id, progress) in events {
            let outcome = outcomes.entry(id).or_default();
            assert!(outcome.end.is_none() && outcome.error.is_none(), "an event after the end");
            match progress {
                Progress::Token(token) => outcome.tokens.push(token),
                Progress::Finished(reason, stats) => outcome.end = Some((reason, stats)),
                Progress::Failed(error) => outcome.error = Some(error),
            }
        }
    }
    panic!("the scheduler does not come to an end");
}

fn request(prompt: &[i32], max_tokens: usize, seed: u64) -> Request {
    let temperature = if seed == 0 { 0.0 } else { 1.0 };
    let sampling = Sampling { temperature, seed, ..Sampling::default() };
    Request { prompt: prompt.to_vec(), max_tokens, sampling, ..Request::default() }
}

/// What the request must give, computed without scheduler and pages.
fn expected(request: &Request) -> Vec<i32> {
    let mut tokens = request.prompt.clone();
    for _ in 0..request.max_tokens {
        let logits = logits_after(tokens.iter().copied(), VOCAB);
        let next = Sampler::new().choose(&logits, None, tokens.len(), &request.sampling);
        tokens.push(next.expect("finite logits"));
    }
    tokens.split_off(request.prompt.len())
}

fn prompt(length: usize, salt: i32) -> Vec<i32> {
    (0..length as i32).map(|i| (i * 7 + salt) % VOCAB as i32).collect()
}

#[test]
fn ragged_batches_give_what_each_sequence_gives_alone() {
    for chunk in [1, 3, 16, 1000] {
        let engine = FakeEngine::new(VOCAB, 200, 4, 200);
        let bounds = Bounds { chunk, sequences: 5 };
        let mut scheduler = Scheduler::new(engine, bounds, None);
        let requests: Vec<Request> = [1, 2, 17, 40, 3, 33, 8, 1]
            .iter()
            .enumerate()
            .map(|(i, &length)| request(&prompt(length, i as i32), 5 + 3 * i, i as u64 % 3))
            .collect();
        for r in &requests {
            scheduler.submit(r.clone()).expect("a sound request");
        }
        let outcomes = drain(&mut scheduler);
        assert_eq!(outcomes.len(), requests.len());
        for (outcome, r) in outcomes.values().zip(&requests) {
            assert_eq!(outcome.tokens, expected(r), "chunk {chunk}, prompt {}", r.prompt.len());
            let (reason, stats) = outcome.end.expect("it ended");
            assert_eq!(reason, FinishReason::MaxTokens);
            assert_eq!(stats.prompt_tokens, r.prompt.len());
            assert_eq!(stats.generated_tokens, r.max_tokens);
            assert!(stats.first_token.is_some());
        }
        assert_eq!(scheduler.free_pages(), 200, "pages were lost");
        let steps = &scheduler.engine().steps;
        assert!(steps.iter().all(|parts| parts.len() <= 5));
        let prefilled = |parts: &Vec<usize>| parts.iter().filter(|n| **n > 1).sum::<usize>();
        assert!(steps.iter().all(|parts| prefilled(parts) <= chunk));
        let mixed = steps.iter().any(|parts| parts.contains(&1) && parts.iter().any(|n| *n > 1));
        assert!(mixed || chunk == 1, "prefill and decode never shared a step");
    }
}

#[test]
fn sequences_give_way_and_come_back_when_pages_run_out() {
    let engine = FakeEngine::new(VOCAB, 100, 4, 10);
    let mut scheduler = Scheduler::new(engine, Bounds { chunk: 8, sequences: 8 }, None);
    let requests: Vec<Request> =
        (0..4).map(|i| request(&prompt(5 + i, i as i32), 20, 1 + i as u64)).collect();
    for r in &requests {
        scheduler.submit(r.clone()).expect("a sound request");
    }
    let outcomes = drain(&mut scheduler);
    for (outcome, r) in outcomes.values().zip(&requests) {
        assert_eq!(outcome.tokens, expected(r));
        assert_eq!(outcome.end.map(|e| e.0), Some(FinishReason::MaxTokens));
    }
    let fed: usize = scheduler.engine().steps.iter().flatten().sum();
    let least: usize = requests.iter().map(|r| r.prompt.len() + r.max_tokens - 1).sum();
    assert!(fed > least, "no sequence was ever set back: {fed} tokens fed");
    assert_eq!(scheduler.free_pages(), 10);
}

#[test]
fn a_lone_sequence_ends_when_pages_or_context_are_full() {
    let mut small = Scheduler::new(FakeEngine::new(VOCAB, 100, 4, 3), Bounds::default(), None);
    small.submit(request(&prompt(6, 0), 50, 0)).expect("a sound request");
    let outcome = drain(&mut small).remove(&SequenceId(0)).expect("it ran");
    assert_eq!(outcome.end.map(|e| e.0), Some(FinishReason::PagesFull));
    assert_eq!(outcome.tokens.len(), 7, "12 rows hold 6 + 6 tokens; one more follows them");
    let mut short = Scheduler::new(FakeEngine::new(VOCAB, 10, 4, 30), Bounds::default(), None);
    short.submit(request(&prompt(6, 0), 50, 0)).expect("a sound request");
    let outcome = drain(&mut short).remove(&SequenceId(0)).expect("it ran");
    assert_eq!(outcome.end.map(|e| e.0), Some(FinishReason::ContextFull));
    assert_eq!(outcome.tokens.len(), 4);
    assert_eq!((small.free_pages(), short.free_pages()), (3, 30));
}

#[test]
fn stop_tokens_and_flags_end_a_sequence() {
    let mut scheduler = Scheduler::new(FakeEngine::new(VOCAB, 100, 4, 50), Bounds::default(), None);
    let base = request(&prompt(4, 1), 12, 5);
    let all = expected(&base);
    let stop = vec![-1, all[6]];
    let first = all.iter().position(|t| *t == all[6]).expect("it is there");
    scheduler.submit(Request { stop, ..base.clone() }).expect("a sound request");
    let flag = Arc::new(AtomicBool::new(false));
    let endless = Request { max_tokens: 90, cancel: Some(flag.clone()), ..base.clone() };
    scheduler.submit(endless.clone()).expect("a sound request");
    scheduler.submit(Request { max_tokens: 0, ..base }).expect("a sound request");
    let mut events = Vec::new();
    for _ in 0..4 {
        scheduler.step(&mut events).expect("the engine does not fail");
    }
    flag.store(true, Ordering::Relaxed);
    scheduler.submit(endless).expect("a sound request");
    let mut outcomes = drain(&mut scheduler);
    let reasons = |o: &Outcome| o.end.map(|e| (e.0, e.1.generated_tokens));
    let stopped = outcomes.remove(&SequenceId(0)).expect("it ran");
    assert_eq!(reasons(&stopped), Some((FinishReason::Stop, first + 1)));
    assert_eq!(stopped.tokens.last(), Some(&all[6]));
    assert_eq!(reasons(&outcomes[&SequenceId(1)]), Some((FinishReason::Cancelled, 4)));
    assert_eq!(reasons(&outcomes[&SequenceId(3)]), Some((FinishReason::Cancelled, 0)));
    let none = events.iter().find(|(id, _)| *id == SequenceId(2)).expect("it ended at once");
    assert!(matches!(none.1, Progress::Finished(FinishReason::MaxTokens, _)));
    assert_eq!(scheduler.free_pages(), 50);
}

#[test]
fn states_are_reused_by_a_prompt_that_begins_alike() {
    let mut scheduler = Scheduler::new(FakeEngine::new(VOCAB, 100, 4, 12), Bounds::default(), None);
    let first = Request { retain: true, ..request(&prompt(10, 2), 5, 0) };
    scheduler.submit(first.clone()).expect("a sound request");
    let said = drain(&mut scheduler).remove(&SequenceId(0)).expect("it ran").tokens;
    assert_eq!(scheduler.free_pages(), 8, "14 rows are kept");
    let mut longer = first.prompt.clone();
    longer.extend(&said[..3]);
    longer.extend([1, 2, 3]);
    let second = Request { prompt: longer, ..first };
    scheduler.submit(second.clone()).expect("a sound request");
    let outcome = drain(&mut scheduler).remove(&SequenceId(1)).expect("it ran");
    assert_eq!(outcome.tokens, expected(&second));
    let (_, stats) = outcome.end.expect("it ended");
    assert_eq!((stats.reused_tokens, stats.prompt_tokens), (13, 16));
    // Kept states give way to a sequence that needs all pages.
    let large = request(&prompt(47, 3), 1, 0);
    scheduler.submit(large.clone()).expect("a sound request");
    let outcome = drain(&mut scheduler).remove(&SequenceId(2)).expect("it ran");
    assert_eq!(outcome.tokens, expected(&large));
    assert_eq!(scheduler.free_pages(), 12);
}

#[test]
fn masked_ids_are_never_chosen() {
    let allowed: Vec<bool> = (0..VOCAB).map(|id| id % 10 == 3).collect();
    let engine = FakeEngine::new(VOCAB, 100, 4, 50);
    let mut scheduler = Scheduler::new(engine, Bounds::default(), Some(allowed));
    for seed in 0..3 {
        scheduler.submit(request(&prompt(3, 0), 30, seed)).expect("a sound request");
    }
    let outcomes = drain(&mut scheduler);
    assert!(outcomes.values().flat_map(|o| &o.tokens).all(|id| id % 10 == 3));
}

#[test]
fn a_logit_that_is_not_a_number_ends_only_its_sequence() {
    let mut engine = FakeEngine::new(VOCAB, 100, 4, 50);
    engine.nan_at = Some(8);
    let mut scheduler = Scheduler::new(engine, Bounds::default(), None);
    scheduler.submit(request(&prompt(3, 0), 30, 0)).expect("a sound request");
    scheduler.submit(request(&prompt(2, 1), 5, 0)).expect("a sound request");
    let outcomes = drain(&mut scheduler);
    let failed = outcomes[&SequenceId(0)].error.as_ref().expect("it failed");
    assert!(matches!(failed, GenerateError::BadLogit { id: 1, position: 9, .. }), "{failed}");
    assert_eq!(outcomes[&SequenceId(1)].tokens.len(), 5);
    assert_eq!(scheduler.free_pages(), 50);
}

#[test]
fn an_engine_that_fails_loses_no_pages() {
    let mut engine = FakeEngine::new(VOCAB, 100, 4, 50);
    engine.fail_at = Some(2);
    let mut scheduler = Scheduler::new(engine, Bounds { chunk: 8, sequences: 1 }, None);
    scheduler.submit(request(&prompt(3, 0), 30, 0)).expect("a sound request");
    scheduler.submit(request(&prompt(3, 0), 30, 0)).expect("a sound request");
    let mut events = Vec::new();
    let error = (0..3).find_map(|_| scheduler.step(&mut events).err()).expect("it fails");
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("E0509", "a worker thread panicked: the fake engine failed")
    );
    assert_eq!(scheduler.free_pages(), 50);
    assert!(!scheduler.is_idle(), "the second request still waits");
}

#[test]
fn unsound_requests_are_refused() {
    let engine = FakeEngine::new(VOCAB, 100, 4, 10);
    let mut scheduler = Scheduler::new(engine, Bounds::default(), None);
    let mut code = |r: Request| scheduler.submit(r).expect_err("it is unsound").code();
    assert_eq!(code(request(&[], 1, 0)), "E0611");
    assert_eq!(code(request(&[0, VOCAB as i32], 1, 0)), "E0604");
    assert_eq!(code(request(&[-1], 1, 0)), "E0604");
    assert_eq!(code(request(&prompt(101, 0), 1, 0)), "E0612");
    assert_eq!(code(request(&prompt(41, 0), 1, 0)), "E0612");
    let mut hot = request(&[1], 1, 1);
    hot.sampling.top_p = 2.0;
    assert_eq!(code(hot), "E0610");
}

#[test]
fn logits_do_not_depend_on_how_prompts_are_fed() {
    let prompts: Vec<Vec<i32>> =
        [5, 0, 31, 1, 16, 8].iter().enumerate().map(|(i, n)| prompt(*n, i as i32)).collect();
    let feeds = [
        Feed::Whole,
        Feed::Chunked(1),
        Feed::Chunked(7),
        Feed::Batched,
        Feed::BatchedChunks(1),
        Feed::BatchedChunks(6),
    ];
    for feed in feeds {
        let mut engine = FakeEngine::new(VOCAB, 40, 4, 12);
        let mut rows = vec![Vec::new(); prompts.len()];
        every_position(&mut engine, &prompts, feed, &mut |at, block| {
            assert_eq!(rows[at.prompt].len(), at.position * VOCAB, "blocks come in order");
            rows[at.prompt].extend_from_slice(block);
            Ok(())
        })
        .expect("sound prompts");
        for (tokens, found) in prompts.iter().zip(&rows) {
            let whole: Vec<f32> = (1..=tokens.len())
                .flat_map(|n| logits_after(tokens[..n].iter().copied(), VOCAB))
                .collect();
            assert_eq!(*found, whole, "{feed:?}");
        }
        let together = engine.steps.iter().any(|parts| parts.len() > 1);
        assert_eq!(together, matches!(feed, Feed::Batched | Feed::BatchedChunks(_)));
    }
}
