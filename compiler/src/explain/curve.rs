//! The time of a block by new tokens of a sequence: of each form that a plan has of it, and as
//! stated.

use super::STATED;
use super::memory::{CacheFormats, KeptReport};
use crate::rewrite::choose::{Block, Chosen};
use crate::rewrite::cost::Point;
use crate::variants::{Run, runs};
use serde::Serialize;

/// Of a block, at a context.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The block.
    pub block: String,
    /// Sequences of each step.
    pub batch: i64,
    /// Tokens of each with the past.
    pub context: i64,
    /// New tokens of each, step by step.
    pub tokens: Vec<i64>,
    /// As stated first.
    pub forms: Vec<CurveForm>,
    /// Where another form is chosen, few tokens first.
    pub switches: Vec<Switch>,
}

/// A form, over all steps.
#[derive(Clone, Debug, Serialize)]
pub struct CurveForm {
    /// Which one it is.
    pub name: String,
    /// What it keeps. The source may keep something else, and so be faster where it is not chosen:
    /// what is kept is settled at the decode point.
    pub state: Vec<KeptReport>,
    /// Where it is chosen: the least and the greatest number of new tokens.
    pub chosen: Vec<[i64; 2]>,
    /// Nanoseconds of each step by the cost model.
    pub ns: Vec<f64>,
}

/// A change from one form to another.
#[derive(Clone, Debug, Serialize)]
pub struct Switch {
    /// The first step of the other, in new tokens.
    pub tokens: i64,
    /// Nanoseconds of that step.
    pub ns: f64,
    /// The one.
    pub from: String,
    /// The other.
    pub to: String,
}

/// New tokens of the longest step.
const LONGEST: i64 = 4096;
/// Steps for which forms are chosen, from one to twice its tokens.
const PER_DOUBLING: i32 = 4;

/// Sweeps steps of a block at a batch and a context, over the forms that a plan has of it.
pub(super) fn curve(
    block: &Block,
    name: &str,
    forms: &[&Chosen],
    Point { batch, context, .. }: Point,
    formats: &CacheFormats,
) -> Curve {
    let most = context.min(LONGEST);
    let point = |tokens: i64| Point { batch, tokens, context };
    let price = |form: usize, tokens| block.price(forms[form], point(tokens));
    let mut runs = runs(&samples(most), forms.len(), &price);
    if let Some(last) = runs.last_mut() {
        last.last = most;
    }
    let mut tokens = samples(most);
    tokens.extend(runs.iter().flat_map(|run| [run.first, run.last]));
    tokens.sort_unstable();
    tokens.dedup();
    let over = |ns: &dyn Fn(i64) -> f64| tokens.iter().map(|tokens| ns(*tokens)).collect();
    let [own, source] = [block.states(), block.stated_states()].map(|s| formats.kept(&s));
    let stated = CurveForm {
        name: STATED.into(),
        state: source,
        chosen: vec![],
        ns: over(&|tokens| block.stated_price(point(tokens))),
    };
    let form = |form: usize| CurveForm {
        name: named(&runs, form),
        state: own.clone(),
        chosen: chosen(&runs, form).collect(),
        ns: over(&|tokens| price(form, tokens)),
    };
    let switch = |pair: &[Run]| Switch {
        tokens: pair[1].first,
        ns: price(pair[1].form, pair[1].first),
        from: named(&runs, pair[0].form),
        to: named(&runs, pair[1].form),
    };
    let has_steps = |form: &usize| runs.iter().any(|run| run.form == *form);
    let own_forms = (0..forms.len()).filter(has_steps).map(form);
    let forms = std::iter::once(stated).chain(own_forms).collect();
    let switches = runs.windows(2).map(switch).collect();
    Curve { block: name.into(), batch, context, tokens, forms, switches }
}

/// New tokens of steps, as far apart as the one is longer than the other.
fn samples(most: i64) -> Vec<i64> {
    let doublings = (most.ilog2() + 1) as i32;
    let step = |i: i32| 2f64.powf(f64::from(i) / f64::from(PER_DOUBLING)).round() as i64;
    let mut all: Vec<i64> = (0..doublings * PER_DOUBLING).map(step).collect();
    all.retain(|tokens| *tokens < most);
    all.push(most);
    all.dedup();
    all
}

fn chosen(runs: &[Run], form: usize) -> impl Iterator<Item = [i64; 2]> {
    runs.iter().filter(move |run| run.form == form).map(|run| [run.first, run.last])
}

fn named(runs: &[Run], form: usize) -> String {
    let ranges: Vec<String> = chosen(runs, form)
        .map(
            |[first, last]| {
                if first == last { first.to_string() } else { format!("{first} to {last}") }
            },
        )
        .collect();
    let word = if ranges == ["1"] { "token" } else { "tokens" };
    format!("chosen for {} new {word}", ranges.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_begin_with_one_token_and_end_with_the_most() {
        assert_eq!(samples(1), [1]);
        assert_eq!(samples(2), [1, 2]);
        assert_eq!(samples(7), [1, 2, 3, 4, 5, 6, 7]);
        let all = samples(4096);
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert_eq!((all[0], all.last()), (1, Some(&4096)));
        assert!(all.contains(&304) && all.len() < 50, "{all:?}");
    }
}
