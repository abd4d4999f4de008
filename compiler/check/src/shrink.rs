//! Small extents: shape parameters and step symbols bound anew.

use ir::attr::Attr;
use ir::dim::{Dim, Name, Sort, Symbol, Symbols};
use ir::graph::eval::Bindings;
use ir::graph::{Graph, Node};
use ir::number::mix;
use std::collections::BTreeSet;

/// New rows of the two steps of an evaluation, where the graph allows them.
const ROWS: [i64; 2] = [3, 2];

/// How many values parameters are drawn from, beside one for each of them: one after the other
/// until some fit.
const SPARE: [usize; 5] = [4, 10, 30, 120, 500];

/// Draws from each range.
const TRIES: usize = 160;

/// Values of all symbols of two graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Small {
    /// Of shape parameters.
    pub params: Bindings,
    /// Of all others, in the first step and in the second.
    pub steps: [Bindings; 2],
}

/// A random word and the next state.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*state)
}

/// What extents of two graphs must be.
struct Wishes {
    params: Vec<Name>,
    /// Each at least 1, and different from the others as far as possible.
    extents: Vec<Dim>,
    /// Each at least 0.
    rooms: Vec<Dim>,
    /// Each better 1 than 0.
    spare: Vec<Dim>,
}

impl Small {
    /// Draws values for the symbols of two graphs: parameters small, different ones different as
    /// far as possible, so that slices are within what they cut and choices fewer than what they
    /// choose from; where none such are found, the graphs' own.
    pub fn of(pair: [&Graph; 2], seed: u64) -> Small {
        let mut symbols = Symbols::new();
        for (name, symbol) in pair.iter().flat_map(|g| &g.symbols) {
            symbols.insert(name.clone(), *symbol);
        }
        let steps = steps(&symbols);
        let wishes = Wishes::of(pair, &symbols);
        let own = |name: &Name| (name.clone(), symbols[name].value.unwrap_or(symbols[name].lo));
        let mut state = seed;
        let drawn = SPARE.iter().enumerate().find_map(|(round, spare)| {
            // An extent of 1 hides much, but may be the only one that fits.
            let low = if round == 0 { 2 } else { 1 };
            let draw = |_| wishes.draw(&mut state, low, *spare);
            let scored =
                (0..TRIES).map(draw).filter_map(|p| Some((wishes.badness(&p, &steps)?, p)));
            scored.min_by_key(|(badness, _)| *badness)
        });
        let params = drawn.map_or_else(|| wishes.params.iter().map(own).collect(), |(_, p)| p);
        Small { params, steps }
    }

    /// Value of a dim in the last step.
    fn value(params: &Bindings, steps: &[Bindings; 2], dim: &Dim) -> Option<i64> {
        dim.eval(&|n| params.get(n).or_else(|| steps[1].get(n)).copied())
    }
}

/// Values of what is no parameter: `s` new rows, `t` those of all steps, others small.
fn steps(symbols: &Symbols) -> [Bindings; 2] {
    let clamped = |s: &Symbol, wanted: i64| wanted.clamp(s.lo.max(0), s.hi.max(s.lo).max(0));
    let rows = |step: usize| symbols.get("s").map_or(ROWS[step], |s| clamped(s, ROWS[step]));
    [0, 1].map(|step| {
        let mut bindings = Bindings::new();
        let others = symbols.iter().filter(|(_, s)| s.sort != Sort::Param && s.value.is_none());
        for (i, (name, symbol)) in others.enumerate() {
            let value = match &**name {
                "s" => rows(step),
                "t" => (0..=step).map(rows).fold(0, i64::saturating_add),
                _ => clamped(symbol, 1 + ((i + step) % 4) as i64),
            };
            bindings.insert(name.clone(), value);
        }
        bindings
    })
}

impl Wishes {
    fn of(pair: [&Graph; 2], symbols: &Symbols) -> Wishes {
        let of_sort = |sort| symbols.iter().filter(move |(_, s)| s.sort == sort);
        let params: Vec<Name> = of_sort(Sort::Param).map(|(n, _)| n.clone()).collect();
        let mut extents: BTreeSet<Dim> = symbols.keys().map(|n| Dim::symbol(n)).collect();
        let (mut rooms, mut spare) = (BTreeSet::new(), BTreeSet::new());
        for graph in pair {
            extents.extend(graph.indices.values().cloned());
            for node in &graph.nodes {
                let extent = |key| word(node, key).map(|index| graph.extent(index));
                let (Some(from), Some(into)) = (extent("index"), extent("into")) else { continue };
                match node.op.name() {
                    "slice" => {
                        let start = dim(node, "start").unwrap_or_default();
                        rooms.insert(from.minus(&into).minus(&start));
                        rooms.insert(start);
                    }
                    "topk" => {
                        rooms.insert(from.minus(&into));
                        spare.insert(from.minus(&into));
                    }
                    _ => {}
                }
            }
        }
        let [extents, rooms, spare] = [extents, rooms, spare].map(|d| d.into_iter().collect());
        Wishes { params, extents, rooms, spare }
    }

    /// Different values for all parameters, from `low` on.
    fn draw(&self, state: &mut u64, low: i64, spare: usize) -> Bindings {
        let mut values: Vec<i64> = (low..).take(self.params.len() + spare).collect();
        let mut one = |name: &Name| {
            let at = next(state) as usize % values.len();
            (name.clone(), values.swap_remove(at))
        };
        self.params.iter().map(&mut one).collect()
    }

    /// How far from what is wished; `None` for what cannot be.
    fn badness(&self, params: &Bindings, steps: &[Bindings; 2]) -> Option<u64> {
        let value = |dim: &Dim| Small::value(params, steps, dim);
        // In the first step, which has fewer rows, too.
        let first = [steps[0].clone(), steps[0].clone()];
        let held = |d: &Dim, steps| Small::value(params, steps, d).is_some_and(|v| v >= 0);
        if !self.rooms.iter().all(|d| held(d, steps) && held(d, &first)) {
            return None;
        }
        let mut extents: Vec<i64> = self.extents.iter().map(value).collect::<Option<_>>()?;
        extents.sort_unstable();
        // Rows that are wanted may be none.
        if extents.first().is_some_and(|e| *e < 0) || !self.indexed(params, steps) {
            return None;
        }
        let equal = extents.windows(2).filter(|w| w[0] == w[1]).count() as u64;
        let tight = self.spare.iter().filter(|d| value(d) == Some(0)).count() as u64;
        let size = extents.iter().map(|e| *e as u64).sum::<u64>();
        Some(equal * 16 + tight * 64 + size / 4)
    }

    /// Whether every extent over parameters alone is positive.
    fn indexed(&self, params: &Bindings, steps: &[Bindings; 2]) -> bool {
        let fixed = |dim: &&Dim| dim.eval(&|n| params.get(n).copied()).is_some();
        let value = |dim: &Dim| Small::value(params, steps, dim);
        self.extents.iter().filter(fixed).all(|d| value(d).is_some_and(|v| v > 0))
    }
}

fn attr<'n>(node: &'n Node, key: &str) -> Option<&'n Attr> {
    let at = node.op.0.schema().attrs.iter().position(|spec| spec.key == key)?;
    node.attrs.0.get(at)
}

/// An attribute that is a word.
pub(crate) fn word<'n>(node: &'n Node, key: &str) -> Option<&'n Name> {
    if let Some(Attr::Name(name)) = attr(node, key) { Some(name) } else { None }
}

fn dim(node: &Node, key: &str) -> Option<Dim> {
    if let Some(Attr::Dim(dim)) = attr(node, key) { Some(dim.clone()) } else { None }
}

/// A graph with its parameters bound to these values. Step symbols may take the values that an
/// evaluation gives them.
pub fn rebound(graph: &Graph, small: &Small) -> Graph {
    let mut bound = graph.clone();
    for (name, symbol) in &mut bound.symbols {
        if let Some(value) = small.params.get(name) {
            *symbol = Symbol::param(*value);
        }
        for value in small.steps.iter().filter_map(|s| s.get(name)) {
            symbol.lo = symbol.lo.min(*value);
            symbol.hi = symbol.hi.max(*value);
        }
    }
    for at in 0..bound.nodes.len() {
        let node = &graph.nodes[at];
        if node.op.name() != "const" {
            continue;
        }
        let extents = |g: &Graph| -> Option<Vec<usize>> {
            let extents = g.extents(g.ty(*node.results.first()?));
            let value = |d: &Dim| usize::try_from(d.bound_value(&g.symbols)?).ok();
            extents.iter().map(value).collect()
        };
        let (Some(from), Some(to)) = (extents(graph), extents(&bound)) else { continue };
        for attr in &mut bound.nodes[at].attrs.0 {
            if let Attr::Floats(values) = attr {
                *values = resized(values, &from, &to);
            }
        }
    }
    bound
}

/// Elements of a row-major value at other extents: those at the same coordinates, modulo its own.
fn resized(values: &[f64], from: &[usize], to: &[usize]) -> Vec<f64> {
    let count = to.iter().try_fold(1usize, |n, e| n.checked_mul(*e));
    let whole = from.iter().try_fold(1usize, |n, e| n.checked_mul(*e));
    let (Some(count), true) = (count, whole == Some(values.len()) && values.len() > 1) else {
        return values.to_vec();
    };
    if count as u64 > crate::trial::MAX_WORK {
        return values.to_vec();
    }
    let at = |mut position: usize| {
        let (mut old, mut stride) = (0, 1);
        for (from, to) in from.iter().zip(to).rev() {
            old += position % to % from * stride;
            stride *= from;
            position /= to;
        }
        values[old]
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::graph::parse::parse_graph;

    #[test]
    fn values_are_taken_by_coordinates() {
        let values: Vec<f64> = (0..6).map(f64::from).collect();
        assert_eq!(resized(&values, &[2, 3], &[2, 2]), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(resized(&values, &[2, 3], &[3, 1]), [0.0, 3.0, 0.0]);
        assert_eq!(resized(&[7.0], &[2, 3], &[3, 1]), [7.0]);
        assert_eq!(resized(&values, &[2, 4], &[3, 1]), values);
    }

    #[test]
    fn extents_are_small_different_and_fit() {
        let text = "graph @g(%x: f32[s, d], %score: f32[s, e]) -> f32[s, n], i32[s, k]
  params d = 192, e = 256, k = 8, n = 128, p = 64
  where 1 <= s <= 4096
  index c = n + p, q = floordiv(e, 5) {
  %y = rename %x {from = [d], to = [d1]} : f32[s, d1]
  %0 = slice %x {index = d, into = n, start = p} : f32[s, n]
  %1 = topk %score {index = e, into = k} : i32[s, k]
  return %0, %1
}";
        let graph = parse_graph(
            &text.replace("  %y = rename %x {from = [d], to = [d1]} : f32[s, d1]\n", ""),
        );
        let graph = graph.unwrap_or_else(|e| panic!("{e:?}"));
        for seed in 0..20 {
            let small = Small::of([&graph, &graph], seed);
            let value = |name: &str| small.params[name];
            assert!(small.params.values().all(|v| *v <= 40), "{small:?}");
            assert!(value("n") + value("p") <= value("d"), "{small:?}");
            assert!(value("k") < value("e") && value("e") >= 5, "{small:?}");
            let rows = small.steps.each_ref().map(|s| (s["s"], s.get("t").copied()));
            assert_eq!(rows, [(3, None), (2, None)]);
            let bound = rebound(&graph, &small);
            bound.verify().unwrap_or_else(|e| panic!("{bound}\n{e:?}"));
        }
    }
}
