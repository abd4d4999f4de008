//! Which values of two equal graphs are the same, whatever they are called.
//!
//! Both are evaluated over the prime field, as for a certificate, and every value is kept: two that
//! have the same elements in each step of each round, up to the order of their axes, are one.

use crate::error::{CheckError, Place};
use crate::shrink::Small;
use crate::trial::{self, Trial};
use crate::{ROUNDS, redrawn, same_signature, verified};
use ir::dim::{Sort, Symbol, Symbols};
use ir::dtype::Class;
use ir::graph::{Graph, ValueId};
use ir::number::{Field, mix};
use ir::tensor::{Data, Tensor, transposed};
use std::collections::HashMap;

/// A value that two graphs have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// In the first.
    pub left: ValueId,
    /// In the second.
    pub right: ValueId,
    /// For each axis of the second's value, which one of the first's it is.
    pub axes: Vec<usize>,
}

/// Pairs of values, numbers and integers alike, that are the same in two graphs of equal parameters
/// and results, parameters among them. A value may be in several pairs. `seed` chooses extents and
/// inputs. Step symbols may be bounded otherwise in each.
///
/// Errors: E0286, E0287, E0289.
pub fn shared([left, right]: [&Graph; 2], seed: u64) -> Result<Vec<Shared>, CheckError> {
    let place = Place { step: 1, rule: "chosen".into() };
    verified(left, &Place::source())?;
    verified(right, &place)?;
    let right = &bounded_as(right, &left.symbols);
    let unsound = |why| CheckError::Unsound { place: place.clone(), why };
    same_signature([left, right]).map_err(unsound)?;
    let shown = [shown(left), shown(right)];
    let mut pairs: Option<Vec<Shared>> = None;
    for round in 0..ROUNDS {
        let seed = mix(seed.wrapping_add(round));
        let small = Small::of([left, right], seed);
        let trial = Trial::new([&shown[0], &shown[1]], &small).map_err(|work| {
            CheckError::TooLarge { place: place.clone(), work, limit: trial::MAX_WORK }
        })?;
        let mut seen = vec![];
        redrawn(seed, &place, &mut |seed| {
            seen.clear();
            trial.each_step::<Field>(seed, &mut |_, outputs| {
                seen.push(outputs);
                Ok(())
            })
        })?;
        for outputs in &seen {
            pairs = Some(match pairs {
                None => matching(&shown, outputs),
                Some(pairs) => kept(pairs, &shown, outputs),
            });
        }
    }
    Ok(pairs.unwrap_or_default())
}

/// The graph with the bounds of another's step symbols.
fn bounded_as(graph: &Graph, symbols: &Symbols) -> Graph {
    let mut bounded = graph.clone();
    for (name, symbol) in &mut bounded.symbols {
        let is_open = |s: &&Symbol| s.sort == symbol.sort && s.value == symbol.value;
        if symbol.sort != Sort::Param
            && let Some(other) = symbols.get(name).filter(is_open)
        {
            (symbol.lo, symbol.hi) = (other.lo, other.hi);
        }
    }
    bounded
}

/// The graph that returns all of its numbers.
fn shown(graph: &Graph) -> Graph {
    let all = (0..graph.values.len() as u32).map(ValueId);
    let is_number = |v: &ValueId| graph.ty(*v).class() != Class::Bool;
    let is_plain = |v: &ValueId| graph.params.contains(v) || graph.ty(*v).encoding.is_plain();
    Graph { outputs: all.filter(is_number).filter(is_plain).collect(), ..graph.clone() }
}

/// What two tensors of the same elements have in common, however their axes are ordered.
fn key(tensor: &Tensor<Field>) -> (Class, Vec<usize>, u64) {
    let sum = match tensor.data() {
        Data::Float(all) => all.iter().fold(0u64, |sum, x| sum.wrapping_add(mix(x.value()))),
        Data::Int(all) => all.iter().fold(0u64, |sum, x| sum.wrapping_add(mix(*x as u64))),
        Data::Bool(_) => 0,
    };
    let mut dims = tensor.dims().to_vec();
    dims.sort_unstable();
    (tensor.class(), dims, sum)
}

fn matching(graphs: &[Graph; 2], [left, right]: &[Vec<Tensor<Field>>; 2]) -> Vec<Shared> {
    let mut by_key: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, tensor) in right.iter().enumerate() {
        by_key.entry(key(tensor)).or_default().push(at);
    }
    let mut pairs = vec![];
    for (at, tensor) in left.iter().enumerate() {
        for other in by_key.get(&key(tensor)).into_iter().flatten() {
            let (left, right_id) = (graphs[0].outputs[at], graphs[1].outputs[*other]);
            let orders = orders(tensor.dims().len());
            let fits = |axes: &Vec<usize>| is_ordered(tensor, &right[*other], axes);
            pairs.extend(orders.into_iter().filter(fits).map(|axes| Shared {
                left,
                right: right_id,
                axes,
            }));
        }
    }
    pairs
}

/// Those that are the same here, too.
fn kept(
    mut pairs: Vec<Shared>,
    graphs: &[Graph; 2],
    [left, right]: &[Vec<Tensor<Field>>; 2],
) -> Vec<Shared> {
    let at = |side: usize, id: ValueId| graphs[side].outputs.binary_search(&id).ok();
    pairs.retain(|pair| {
        let (Some(l), Some(r)) = (at(0, pair.left), at(1, pair.right)) else { return false };
        is_ordered(&left[l], &right[r], &pair.axes)
    });
    pairs
}

/// Every order of so many axes.
fn orders(rank: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for axis in 0..rank {
        let longer = |order: Vec<usize>| {
            (0..=order.len()).map(move |at| {
                let mut order = order.clone();
                order.insert(at, axis);
                order
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// Whether the second tensor is the first with its axes in this order.
fn is_ordered(left: &Tensor<Field>, right: &Tensor<Field>, axes: &[usize]) -> bool {
    let dims: Vec<usize> = axes.iter().map(|a| left.dims()[*a]).collect();
    if dims != right.dims() {
        return false;
    }
    let mut from = transposed(left.dims(), axes);
    match (left.data(), right.data()) {
        (Data::Float(l), Data::Float(r)) => {
            r.iter().all(|x| from.next().is_some_and(|i| l[i] == *x))
        }
        (Data::Int(l), Data::Int(r)) => r.iter().all(|x| from.next().is_some_and(|i| l[i] == *x)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::graph::parse::parse_graph;

    fn graph(text: &str) -> Graph {
        parse_graph(text).unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// Names of the pairs, with the order of their axes.
    fn named([left, right]: [&Graph; 2], pairs: &[Shared]) -> Vec<String> {
        let name = |p: &Shared| {
            let (l, r) = (&left.value(p.left).name, &right.value(p.right).name);
            format!("{l} {r} {:?}", p.axes)
        };
        pairs.iter().map(name).collect()
    }

    #[test]
    fn values_are_known_by_what_they_are() {
        let left = graph(
            "graph @g(%x: f32[s, D], weight %a: f32[D, r], weight %b: f32[r, f]) -> f32[s, f]
  params D = 8, r = 4, f = 6
  where 1 <= s <= 16 {
  %c = contract %x, %a : f32[s, r]
  %y = contract %c, %b : f32[s, f]
  return %y
}",
        );
        let right = graph(
            "graph @g(%x: f32[s, D], weight %a: f32[D, r], weight %b: f32[r, f]) -> f32[s, f]
  params D = 8, r = 4, f = 6
  where 1 <= s <= 99 {
  %y = contract %a, %x : f32[r, s]
  %c = contract %a, %b : f32[D, f]
  %z = contract %x, %c : f32[s, f]
  return %z
}",
        );
        let pairs = shared([&left, &right], 7).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            named([&left, &right], &pairs),
            ["x x [0, 1]", "a a [0, 1]", "b b [0, 1]", "c y [1, 0]", "y z [0, 1]"]
        );
    }

    #[test]
    fn graphs_of_other_parameters_share_nothing() {
        let text = "graph @g(%x: f32[s, D]) -> f32[s, D]
  params D = 8
  where 1 <= s <= 16 {
  return %x
}";
        let [one, two] = [text, &text.replace("D = 8", "D = 9")].map(graph);
        assert_eq!(shared([&one, &two], 7).map_err(|e| e.code()), Err("E0286"));
    }
}
