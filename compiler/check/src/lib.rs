//! Checks that graphs which a rewriting went through are equal.
//!
//! A [`Certificate`] is a block's source graph and the graph after each step, with the step's rule
//! and [`Tag`]. [`check`] evaluates every two neighbours over the prime field, at small extents and
//! with fresh random inputs, in two steps: the second has the past that each graph itself kept in
//! the first. Outputs must be equal to the bit, so that a wrong step is caught with near certainty.
//! It knows graphs only: no rules, no e-graph, nothing of the rewriter.
//!
//! What the field cannot see: rounding (casts are the identity there), and laws of order, of
//! exponentials and of positive homogeneity, which are false in it. Steps by such laws are tagged
//! [`Tag::Order`] or [`Tag::Approximates`] and compared in f64, within [`Tag::bound`].
//!
//! Extents are small because shape parameters are bound anew, to values that differ as far as the
//! graphs allow. So what a graph says of an extent must be said with symbols: `iota {start = e}` is
//! bound with `e`, a number in the text is not. Numbers of a `const` with several elements are
//! those whose coordinates, modulo the original extents, are the same; a constant that is cut,
//! joined or multiplied must hence stay a node, not become another constant.
//!
//! - [`certificate`]: the data and its text
//! - [`shrink`]: small extents
//! - [`trial`]: random inputs, two steps, comparison
//! - [`shared`]: which values of two equal graphs are the same
//! - [`error`]: E0285 to E0289

#![warn(missing_docs)]

pub mod certificate;
pub mod error;
pub mod shared;
pub mod shrink;
pub mod trial;

pub use certificate::{Certificate, Step, Tag};
pub use error::{CheckError, Place};

use error::CheckError::{Differs, Unevaluable};
use ir::graph::error::GraphError;
use ir::graph::{Graph, ParamKind};
use ir::number::{Field, mix};
use shrink::Small;
use trial::{Draw, Fault, Trial};

/// Evaluations of a pair, each at other extents and with other inputs.
const ROUNDS: u64 = 2;

/// Draws after which a pair that always divides by zero is given up.
const DRAWS: u64 = 8;

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that are equal in the prime field.
    pub field: usize,
    /// Steps that are near in f64, being tagged so.
    pub near: usize,
}

/// Checks every step of a certificate. `seed` chooses extents and inputs.
///
/// Errors: E0286 to E0289 for the first step that is wrong.
pub fn check(certificate: &Certificate, seed: u64) -> Result<Report, CheckError> {
    let mut report = Report::default();
    let mut before = &certificate.source;
    verified(before, &Place::source())?;
    for (i, step) in certificate.steps.iter().enumerate() {
        let place = Place { step: i + 1, rule: step.rule.clone() };
        verified(&step.graph, &place)?;
        compare([before, &step.graph], step.tag, mix(seed ^ place.step as u64), &place)?;
        match step.tag.bound() {
            None => report.field += 1,
            Some(_) => report.near += 1,
        }
        before = &step.graph;
    }
    Ok(report)
}

/// Checks two graphs: the whole of a rewriting, whose weakest step has `tag`.
///
/// Errors: E0286 to E0289.
pub fn check_pair(source: &Graph, chosen: &Graph, tag: Tag, seed: u64) -> Result<(), CheckError> {
    let place = Place { step: 1, rule: "chosen".into() };
    verified(source, &Place::source())?;
    verified(chosen, &place)?;
    compare([source, chosen], tag, seed, &place)
}

fn verified(graph: &Graph, place: &Place) -> Result<(), CheckError> {
    graph.verify().map_err(|errors| {
        let why = errors.first().map_or_else(String::new, |e| format!("{}: {e}", e.kind.code()));
        CheckError::Unsound { place: place.clone(), why }
    })
}

fn compare(pair: [&Graph; 2], tag: Tag, seed: u64, place: &Place) -> Result<(), CheckError> {
    same_signature(pair).map_err(|why| CheckError::Unsound { place: place.clone(), why })?;
    for round in 0..ROUNDS {
        let seed = mix(seed.wrapping_add(round));
        let small = Small::of(pair, seed);
        let trial = Trial::new(pair, &small).map_err(|work| CheckError::TooLarge {
            place: place.clone(),
            work,
            limit: trial::MAX_WORK,
        })?;
        match tag.bound() {
            None => evaluate::<Field>(&trial, 0.0, seed, place)?,
            Some(bound) => evaluate::<f64>(&trial, bound, seed, place)?,
        }
    }
    Ok(())
}

/// Runs a trial until nothing in it divides by zero.
fn evaluate<N: Draw>(
    trial: &Trial,
    bound: f64,
    seed: u64,
    place: &Place,
) -> Result<(), CheckError> {
    redrawn(seed, place, &mut |seed| trial.run::<N>(bound, seed))
}

/// Draws inputs until nothing divides by zero.
fn redrawn(
    seed: u64,
    place: &Place,
    run: &mut dyn FnMut(u64) -> Result<(), Fault>,
) -> Result<(), CheckError> {
    let mut last = Ok(());
    for draw in 0..DRAWS {
        last = run(mix(seed ^ draw << 32));
        match &last {
            Err(Fault::Evaluation { error: GraphError::Resample, .. }) => {}
            _ => break,
        }
    }
    last.map_err(|fault| match fault {
        Fault::Evaluation { side, error } => {
            let place = if side == 0 { place.before() } else { place.clone() };
            Unevaluable { place, error: Box::new(error) }
        }
        Fault::Difference { step, output, element, found, expected } => {
            Differs { place: place.clone(), after: step, output, element, found, expected }
        }
    })
}

/// Demands equal parameters and results, as far as types say: encodings, and extents over symbols
/// of equal bounds. Names of values and indices are free.
fn same_signature([left, right]: [&Graph; 2]) -> Result<(), String> {
    for (name, symbol) in &left.symbols {
        if right.symbols.get(name).is_some_and(|s| s != symbol) {
            return Err(format!("symbol '{name}' has other bounds than before"));
        }
    }
    for (what, l, r) in
        [("parameters", &left.params, &right.params), ("outputs", &left.outputs, &right.outputs)]
    {
        if l.len() != r.len() {
            return Err(format!("found {} {what}, expected {}", r.len(), l.len()));
        }
        for (at, (l, r)) in l.iter().zip(r).enumerate() {
            let (before, after) = (left.ty(*l), right.ty(*r));
            if before.encoding != after.encoding || left.extents(before) != right.extents(after) {
                return Err(format!("{what}[{at}] is {after}, expected {before}"));
            }
        }
    }
    for at in 0..left.params.len() {
        match [left.param_kind(at), right.param_kind(at)] {
            [ParamKind::State, _] | [_, ParamKind::State] => {
                return Err(format!("parameters[{at}] is a state, expected input or weight"));
            }
            [l, r] if l != r => return Err(format!("parameters[{at}] is {r:?}, expected {l:?}")),
            _ => {}
        }
    }
    Ok(())
}
