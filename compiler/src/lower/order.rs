//! The order of indices of products with weights: that in which the generator of contractions
//! writes them. Names say which index is which, so that an order is nobody else's matter.

use crate::lower::partition::weight_operand;
use ir::dim::Name;
use ir::graph::Graph;

/// Puts the indices of each product of rows with a weight in order: those of the rows as they lie
/// in the operand, then the weight's own. Results of the block stay as they are.
pub fn order_products(graph: &mut Graph) {
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let Some(weight) = weight_operand(graph, node) else { continue };
        let result = node.results[0];
        let [rows, weight] = [node.operands[1 - weight], node.operands[weight]];
        let [rows, weight, ty] = [rows, weight, result].map(|v| graph.ty(v));
        let own = weight.indices.iter().filter(|i| !rows.has(i));
        let indices: Vec<Name> =
            rows.indices.iter().chain(own).filter(|i| ty.has(i)).cloned().collect();
        if indices.len() == ty.indices.len() && !graph.outputs.contains(&result) {
            graph.values[result.0 as usize].ty.indices = indices;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::graph::parse::parse_graph;

    #[test]
    fn products_are_ordered_and_results_are_not() {
        let text = "graph @g(%x: f32[s, e, f], weight %w: bf16[e, D, f]) -> f32[s, D], f32[s, D, e]
  params D = 8, e = 4, f = 6
  where 1 <= s <= 16 {
  %a = contract %x, %w : f32[D, s, e]
  %b = reduce %a {op = sum} : f32[s, D]
  %c = contract %w, %x : f32[s, D, e]
  return %b, %c
}";
        let mut graph = parse_graph(text).unwrap_or_else(|e| panic!("{e:?}"));
        order_products(&mut graph);
        graph.verify().unwrap_or_else(|e| panic!("{e:?}"));
        let text = graph.to_string();
        assert!(text.contains("%a = contract %x, %w : f32[s, e, D]"), "{text}");
        assert!(text.contains("%c = contract %w, %x : f32[s, D, e]"), "{text}");
    }
}
