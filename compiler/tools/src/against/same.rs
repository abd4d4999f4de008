//! Which values of two files are the same: found by what their graphs compute, not by names.

use super::Side;
use crate::error::ToolError;
use artifact::format::{TOKENIZER, digest};
use artifact::manifest;
use check::CheckError;
use check::shared::{Shared, shared};
use compiler::certificate::leading_to;
use ir::dim::Name;
use ir::graph::Graph;
use ir::graph::program::{Arg, Call};
use std::collections::HashMap;
use std::rc::Rc;

/// Chooses the checker's extents and inputs.
const SEED: u64 = 1;

/// A value that blocks of both files have.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Its name in the first file's block.
    pub first: Name,
    /// In the second's.
    pub second: Name,
    /// Its indices in the second's block, each with the first's for it.
    pub indices: Vec<(Name, Name)>,
}

/// The values that calls of two files share.
pub struct Same<'a> {
    sides: [Side<'a>; 2],
    /// By the hashes of both graphs.
    known: HashMap<[String; 2], Rc<Vec<Pair>>>,
}

impl<'a> Same<'a> {
    /// Of two files of one model.
    ///
    /// # Errors
    /// E0274 for files of different models.
    pub fn new(sides: [Side<'a>; 2]) -> Result<Same<'a>, ToolError> {
        let tokens = |s: Side<'_>| s.model.manifest().model.vocab_size;
        alike(sides.map(|s| format!("a vocabulary of {} tokens", tokens(s))))?;
        let tokenizer = |bytes: &[u8]| format!("a tokenizer with the hash {}", digest(bytes));
        alike(sides.map(|s| s.model.section(TOKENIZER).map_or("no tokenizer".into(), tokenizer)))?;
        alike(sides.map(formats))?;
        let calls = sides.map(calls);
        alike(calls.map(|calls| format!("{} blocks", calls.len())))?;
        let mut equal: Vec<[&Name; 2]> = vec![];
        for (at, (first, second)) in calls[0].iter().zip(calls[1]).enumerate() {
            let kinds = |c: &Call| c.args.iter().map(kind).collect::<Vec<_>>().join(", ");
            alike([first, second].map(|c| format!("a block {at} that takes {}", kinds(c))))?;
            let blocks = [&first.block, &second.block];
            if !equal.contains(&blocks) {
                equal_blocks(sides, blocks, at)?;
                equal.push(blocks);
            }
        }
        Ok(Same { sides, known: HashMap::new() })
    }

    /// Values that a call's block has in both files, in the forms that these buckets run.
    ///
    /// # Errors
    /// The checker's.
    pub fn pairs(&mut self, buckets: [usize; 2], call: usize) -> Result<Rc<Vec<Pair>>, ToolError> {
        let [first, second] = [0, 1].map(|i| form(self.sides[i], buckets[i], call));
        let (Some((first, left)), Some((second, right))) = (first, second) else {
            return Ok(Rc::default());
        };
        let key = [first, second];
        if let Some(known) = self.known.get(&key) {
            return Ok(Rc::clone(known));
        }
        let found = shared([left, right], SEED).map_err(|error| {
            let (block, error) = (left.name.to_string(), Box::new(error));
            ToolError::Graphs { block, error }
        })?;
        let pairs: Vec<Pair> = found.iter().map(|s| named([left, right], s)).collect();
        let pairs = Rc::new(pairs);
        self.known.insert(key, Rc::clone(&pairs));
        Ok(pairs)
    }
}

/// Calls of a file's program.
pub fn calls(side: Side<'_>) -> &[Call] {
    side.made.program.entry("forward").map_or(&[], |entry| &entry.calls)
}

fn kind(arg: &Arg) -> &'static str {
    match arg {
        Arg::Value(_) => "value",
        Arg::Weight(_) => "weight",
        Arg::State { .. } => "state",
    }
}

/// In which formats a file has its weights: rounded otherwise, they are another model's.
fn formats(side: Side<'_>) -> String {
    let asked = manifest::formats(&side.model.manifest().options);
    let asked: Vec<String> = asked.map(|(key, value)| format!("{key}={value}")).collect();
    if asked.is_empty() { "weights as stored".into() } else { asked.join(" ") }
}

/// Demands the same of both files.
fn alike([first, second]: [String; 2]) -> Result<(), ToolError> {
    match first == second {
        true => Ok(()),
        false => Err(ToolError::OtherModel { first, second }),
    }
}

/// Demands blocks that compute the same, as they are stated.
fn equal_blocks(sides: [Side<'_>; 2], names: [&Name; 2], at: usize) -> Result<(), ToolError> {
    let [first, second] = [0, 1].map(|i| sides[i].made.program.block(names[i]));
    let (Some(first), Some(second)) = (first, second) else { return Ok(()) };
    if first.equals_but_name(second) {
        return Ok(());
    }
    let other = |why: &str| {
        let named = |g: &Graph| format!("a block {at} @{}", g.name);
        alike([named(first), format!("{} that is another: {why}", named(second))])
    };
    let found = match shared([first, second], SEED) {
        Ok(found) => found,
        Err(CheckError::Unsound { why, .. }) => return other(&why),
        Err(error) => return other(&error.to_string()),
    };
    let is_same = |(l, r): (&_, &_)| {
        found.iter().any(|s| s.left == *l && s.right == *r && s.axes.is_sorted())
    };
    match first.outputs.iter().zip(&second.outputs).all(is_same) {
        true => Ok(()),
        false => other("their results differ"),
    }
}

/// The graph that a bucket runs in a call, with its hash.
fn form<'a>(side: Side<'a>, bucket: usize, call: usize) -> Option<(String, &'a Graph)> {
    let forms = &side.made.lowered.plan.entries[0].buckets[bucket].forms;
    let block = &calls(side).get(call)?.block;
    let form = forms.iter().find(|f| *f.block == **block)?;
    let certificate = leading_to(&side.made.lowered.certificates, form)?;
    Some((form.graph.clone(), certificate.chosen()))
}

fn named([left, right]: [&Graph; 2], shared: &Shared) -> Pair {
    let (first, second) = (left.value(shared.left), right.value(shared.right));
    let index =
        |(axis, own): (usize, &Name)| (own.clone(), first.ty.indices[shared.axes[axis]].clone());
    Pair {
        first: first.name.clone(),
        second: second.name.clone(),
        indices: second.ty.indices.iter().enumerate().map(index).collect(),
    }
}
