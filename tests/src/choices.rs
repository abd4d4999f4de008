//! Which experts each row goes to, where two computations of one model part, and by how little.
//!
//! A program with its choices open ([`open_choices`]) shows what every routing ranks and chooses,
//! and can be told what to choose. So rows whose experts are chosen otherwise at a lower precision
//! can be told from rows that are computed wrongly.

use crate::native::{NativeCode, Stage};
use crate::oracle::{Oracle, Part};
use crate::rebuild::{Routing, open_choices, round_operands};
use crate::reference::Reference;
use compiler::import::Imported;
use compiler::lower::Lowered;
use compiler::lower::variant::Variant;
use compiler::options::Options;
use generate::command::bounds::SPREAD;
use ir::graph::program::Program;
use ir::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};

/// What one routing saw and did, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routed {
    /// f32 `[s, e]`: what experts are ranked by.
    pub scores: Vec<f32>,
    /// f32 `[s, g]`: what groups are ranked by; empty where none limit the choice.
    pub groups: Vec<f32>,
    /// i32 `[s, k]`.
    pub chosen: Vec<i32>,
}

/// What a run shows of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Logits of every position.
    pub logits: Vec<f32>,
    /// By routing.
    pub routed: Vec<Routed>,
}

/// A row that a routing sends to other experts than the reference does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flip {
    /// Which routing, by depth.
    pub routing: usize,
    /// Which row.
    pub row: usize,
    /// How far the reference ranks what it chose above what was chosen instead.
    pub gap: f64,
    /// Whether other groups were kept: the gap is then one of groups' scores.
    pub of_groups: bool,
}

/// Root mean square error of the scores of one routing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreError {
    /// Of what experts are ranked by.
    pub experts: f64,
    /// Of what groups are ranked by; 0 where there are none.
    pub groups: f64,
}

impl ScoreError {
    /// The larger of two, of each kind.
    pub fn max(self, other: ScoreError) -> ScoreError {
        ScoreError {
            experts: self.experts.max(other.experts),
            groups: self.groups.max(other.groups),
        }
    }

    /// Least gap that an error of this size does not close.
    pub fn closes(&self, flip: &Flip) -> f64 {
        SPREAD * if flip.of_groups { self.groups } else { self.experts }
    }
}

/// Tokens of a prompt whose form stands for those of all.
const PROMPT: i64 = 100;

/// A model with its choices open.
pub struct Open<'a> {
    reference: Reference<'a>,
    near: Reference<'a>,
    /// The program.
    pub program: Program,
    /// Its forms as they are shipped.
    pub forms: Vec<Variant>,
    rounded: Program,
    /// Its routings, by depth.
    pub routings: Vec<Routing>,
}

impl<'a> Open<'a> {
    /// Opens an imported model, to be rounded as these options do.
    pub fn new(imported: &'a Imported, stage: Stage, options: &Options) -> Self {
        let (program, routings) = open_choices(&imported.program);
        let mut forms = stage.variants(&imported.program, options);
        for form in &mut forms {
            let (program, same) = open_choices(&form.program);
            assert_eq!(same, routings, "choices are not rewritten");
            form.program = program;
        }
        let is_prompts = |v: &&Variant| {
            let holds = |(lo, hi): (i64, i64)| (lo..=hi).contains(&PROMPT);
            v.bucket.rows_max > PROMPT
                && v.steps.iter().any(|s| holds(s.tokens) && holds(s.context))
        };
        let prefill = forms.iter().find(is_prompts).expect("prompts have a form");
        let rounded = round_operands(&prefill.program, options);
        let reference = Reference::new(imported);
        let near = Reference::rounded(imported, options.weights.clone());
        Open { reference, near, program, forms, rounded, routings }
    }

    /// A prompt in f32, by the interpreter.
    pub fn exact(&mut self, ids: &[i32]) -> Shown {
        self.interpret(false, ids, None)
    }

    /// A prompt with weights and operands rounded as the options say and choices given, by the
    /// interpreter: what the precision alone does.
    pub fn rounded(&mut self, ids: &[i32], choices: &Shown) -> Shown {
        self.interpret(true, ids, Some(choices))
    }

    fn interpret(&mut self, rounded: bool, ids: &[i32], choices: Option<&Shown>) -> Shown {
        let (program, reference) = match rounded {
            true => (&self.rounded, &mut self.near),
            false => (&self.program, &mut self.reference),
        };
        let forced = forced(&self.routings, ids.len(), choices);
        let tensor = |(i, r): (usize, &Routing)| {
            Tensor::ints(&[ids.len(), r.chosen], forced[&format!("forced.{i}")].clone()).unwrap()
        };
        let more = self.routings.iter().enumerate().map(tensor).collect();
        let found = reference.forward(program, ids, more);
        let names = program.entries[0].outputs.iter().map(ToString::to_string);
        let mut found: HashMap<String, Tensor<f32>> = names.zip(found).collect();
        shown(&self.routings, &mut |name| {
            let tensor = found.remove(name)?;
            Some(match name.starts_with("chosen") {
                true => tensor.as_ints().iter().map(|v| *v as u32).collect(),
                false => tensor.as_floats().iter().map(|v| v.to_bits()).collect(),
            })
        })
    }

    /// A prompt by native code of the lowered program, with choices given or its own.
    pub fn native(
        &self,
        imported: &Imported,
        lowered: &Lowered,
        code: &NativeCode,
        ids: &[i32],
        choices: Option<&Shown>,
    ) -> Shown {
        let page = lowered.plan.states[0].page_tokens as usize;
        let pages: Vec<i32> = (0..ids.len().div_ceil(page) as i32).rev().collect();
        let mut oracle = Oracle::new(imported, lowered, pages.len() as i64);
        let parts = [Part { tokens: ids, past: 0, pages: &pages }];
        let forced = forced(&self.routings, ids.len(), choices);
        let mut found = oracle.walk(&parts, &forced, &mut |l, memory| code.run(l, memory));
        shown(&self.routings, &mut |name| found.remove(name))
    }
}

/// Inputs that give each routing its choices, or leave them to it.
fn forced(routings: &[Routing], rows: usize, to: Option<&Shown>) -> HashMap<String, Vec<i32>> {
    let choice = |(i, r): (usize, &Routing)| {
        let own = || vec![-1; rows * r.chosen];
        (format!("forced.{i}"), to.map_or_else(own, |s| s.routed[i].chosen.clone()))
    };
    routings.iter().enumerate().map(choice).collect()
}

fn shown(routings: &[Routing], output: &mut dyn FnMut(&str) -> Option<Vec<u32>>) -> Shown {
    let floats = |words: Vec<u32>| words.into_iter().map(f32::from_bits).collect();
    let mut routed = vec![];
    for i in 0..routings.len() {
        let chosen = output(&format!("chosen.{i}")).unwrap();
        routed.push(Routed {
            scores: floats(output(&format!("scores.{i}")).unwrap()),
            groups: floats(output(&format!("groups.{i}")).unwrap_or_default()),
            chosen: chosen.into_iter().map(|w| w as i32).collect(),
        });
    }
    Shown { logits: floats(output("logits").unwrap()), routed }
}

type Set = BTreeSet<usize>;

/// The `count` largest, the lower position winning a tie.
fn largest(scores: &[f32], count: usize) -> Set {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.into_iter().take(count).collect()
}

/// How far the best of what only `a` has lies above the worst of what only `b` has.
fn gap(scores: &[f32], a: &Set, b: &Set) -> f64 {
    let score = |i: &usize| f64::from(scores[*i]);
    let lost = a.difference(b).map(score).fold(f64::NEG_INFINITY, f64::max);
    lost - b.difference(a).map(score).fold(f64::INFINITY, f64::min)
}

/// Every row that is sent elsewhere, by depth.
pub fn flips(routings: &[Routing], reference: &Shown, found: &Shown) -> Vec<Flip> {
    let mut all = vec![];
    for (routing, r) in routings.iter().enumerate() {
        let (a, b) = (&reference.routed[routing], &found.routed[routing]);
        let set = |row: &[i32]| row.iter().map(|e| *e as usize).collect::<Set>();
        let rows = a.chosen.chunks_exact(r.chosen).zip(b.chosen.chunks_exact(r.chosen));
        for (row, (x, y)) in rows.enumerate() {
            let (x, y) = (set(x), set(y));
            if x == y {
                continue;
            }
            let kept = |of: &Routed| largest(&of.groups[row * r.groups..][..r.groups], r.kept);
            let (kept_x, kept_y) = (kept(a), kept(b));
            let group = |e: &usize| e / (r.experts / r.groups.max(1));
            let shut = |e: &usize| !(kept_x.contains(&group(e)) && kept_y.contains(&group(e)));
            let of_groups = r.groups > 0 && x.symmetric_difference(&y).any(shut);
            let gap = match of_groups {
                true => gap(&a.groups[row * r.groups..][..r.groups], &kept_x, &kept_y),
                false => gap(&a.scores[row * r.experts..][..r.experts], &x, &y),
            };
            all.push(Flip { routing, row, gap, of_groups });
        }
    }
    all
}

/// Whether a row's input to a routing has been changed by flips above it: its own, and those of
/// earlier rows, which it sees through attention.
pub fn is_reached(flips: &[Flip], routing: usize, row: usize) -> bool {
    flips.iter().any(|f| f.routing < routing && f.row <= row)
}

/// Whether a row's logits have been changed by flips: behind the last routing no row sees another.
pub fn is_touched(flips: &[Flip], routings: usize, row: usize) -> bool {
    is_reached(flips, routings - 1, row) || flips.iter().any(|f| f.row == row)
}

/// Errors of the scores of each routing over pairs of a reference and what was found.
pub fn score_errors(routings: usize, pairs: &[(&Shown, &Shown)]) -> Vec<ScoreError> {
    let of = |i: usize| {
        let all = pairs.iter().map(|(a, b)| (&a.routed[i], &b.routed[i]));
        ScoreError {
            experts: rms(all.clone().map(|(a, b)| (&a.scores[..], &b.scores[..]))),
            groups: rms(all.map(|(a, b)| (&a.groups[..], &b.groups[..]))),
        }
    };
    (0..routings).map(of).collect()
}

/// The same of one row of a routing.
pub fn row_error(routing: &Routing, row: usize, [a, b]: [&Routed; 2]) -> ScoreError {
    let of = |values: fn(&Routed) -> &[f32], width: usize| {
        let of_row = |r| &values(r)[row * width..][..width];
        rms([(of_row(a), of_row(b))].into_iter())
    };
    ScoreError {
        experts: of(|r| &r.scores, routing.experts),
        groups: of(|r| &r.groups, routing.groups),
    }
}

fn rms<'a>(pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let (mut sum, mut count) = (0f64, 0usize);
    for (a, b) in pairs {
        sum += a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        count += a.len();
    }
    (sum / count.max(1) as f64).sqrt()
}
