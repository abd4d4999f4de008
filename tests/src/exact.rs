//! Native code in f32 against the graph interpreter.

use crate::goldens::Prompt;
use crate::native::{Levels, Stage, build_imported, logits};
use crate::reference::Reference;
use compiler::import::Imported;
use compiler::options::{Compute, Options};
use generate::logits::Feed;

/// Lengths of the prompts.
const LENGTHS: [usize; 3] = [1, 7, 70];

/// Prompts with the graph interpreter's logits.
pub fn prompts_of(imported: &Imported) -> Vec<Prompt> {
    let vocab = imported.info.vocab as usize;
    let mut reference = Reference::new(imported);
    let prompt = |n: &usize| {
        let ids: Vec<i32> = (0..*n).map(|i| ((i * i * 37 + i * 11 + n) % vocab) as i32).collect();
        let logits = reference.logits(&ids).chunks_exact(vocab).map(<[f32]>::to_vec).collect();
        Prompt { ids, first: 0, logits, greedy: vec![], sure_steps: 0 }
    };
    LENGTHS.iter().map(prompt).collect()
}

/// Every target, prompts whole and in chunks of several sequences: the worst relative error of a
/// row is below the bound.
pub fn check(
    name: &str,
    imported: &Imported,
    stage: Stage,
    page_tokens: u32,
    bound: f64,
    which: Levels,
) {
    let prompts = prompts_of(imported);
    let ids: Vec<Vec<i32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let options = Options { compute: Compute::F32, page_tokens, ..Options::default() };
    let built = build_imported(imported, stage, &options, which);
    for way in &built.ways {
        let mut worst = 0f64;
        for feed in [Feed::Whole, Feed::BatchedChunks(5)] {
            let found = logits(&mut built.engine(way, 2, 256), &ids, feed);
            for (p, (prompt, found)) in prompts.iter().zip(&found).enumerate() {
                for (row, error) in prompt.errors(found).into_iter().enumerate() {
                    let place = format!("{name} {way} {feed:?}, prompt {p}, row {row}");
                    assert!(error < bound, "{place}: {error:e}");
                    worst = worst.max(error);
                }
            }
        }
        println!("{name} {way}: {worst:.1e}");
    }
}
