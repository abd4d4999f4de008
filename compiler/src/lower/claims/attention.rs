//! Attention among primitives: a softmax over the context whose scores are sums of products of
//! queries with histories, behind a causal mask, and the products of its result with histories.

use crate::lower::claims::source::Source;
use crate::lower::claims::{Claim, Form as ClaimForm};
use crate::lower::error::LowerError;
use crate::lower::linear::{Term, terms};
use crate::lower::partition::{GroupKind, context_index, op_name, row_index};
use ir::attr::Attr;
use ir::dim::{Dim, Name};
use ir::expr::{Binary, Expr};
use ir::graph::{Def, Graph, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// One product that scores are the sum of: `scale · Σ_over query · key`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPart {
    /// Multiplies the product.
    pub scale: f64,
    /// Rows of queries, a value of the graph.
    pub query: ValueId,
    /// Rows of keys over the context.
    pub key: Source,
    /// Indices of the sum.
    pub over: Vec<Name>,
}

/// A product of the softmax with rows over the context.
#[derive(Clone, Debug, PartialEq)]
pub struct ValuePart {
    /// Rows of values over the context.
    pub value: Source,
    /// Indices of its rows that scores lack: columns of the result.
    pub own: Vec<Name>,
    /// The result.
    pub result: ValueId,
}

/// An attention: results `Σ_t softmax_t(Σ keys) · value`, each row seeing the context up to its
/// own position.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// Indices of scores but the rows' and the context's.
    pub heads: Vec<Name>,
    /// What scores are the sum of.
    pub keys: Vec<KeyPart>,
    /// What is averaged.
    pub values: Vec<ValuePart>,
}

/// Every attention of a graph.
///
/// Errors: E0261 for a softmax over the context that is no such attention.
pub fn find(graph: &Graph) -> Result<Vec<Claim>, LowerError> {
    let numbered = graph.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n));
    let over_context = numbered.filter_map(|(id, node)| match (op_name(node), &node.attrs.0[..]) {
        ("softmax", [Attr::Name(t)]) if is_context(graph, node.operands[0], t) => Some((id, t)),
        _ => None,
    });
    over_context.map(|(id, t)| Finder::new(graph, id, t).claim()).collect()
}

fn is_context(graph: &Graph, value: ValueId, index: &Name) -> bool {
    context_index(graph, value) == Some(index)
}

/// What one softmax is the middle of.
struct Finder<'g> {
    graph: &'g Graph,
    softmax: NodeId,
    context: &'g Name,
    nodes: BTreeSet<NodeId>,
    products: BTreeMap<NodeId, usize>,
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph, softmax: NodeId, context: &'g Name) -> Self {
        let (nodes, products) = (BTreeSet::from([softmax]), BTreeMap::new());
        Finder { graph, softmax, context, nodes, products }
    }

    fn form(&self, node: &Node, found: impl Into<String>, expected: &str) -> LowerError {
        LowerError::Form {
            graph: self.graph.name.clone(),
            node: op_name(node),
            found: found.into(),
            expected: expected.to_string(),
        }
    }

    fn named(&self, value: ValueId) -> String {
        let value = self.graph.value(value);
        format!("%{}: {}", value.name, value.ty)
    }

    fn claim(mut self) -> Result<Claim, LowerError> {
        let node = self.graph.node(self.softmax);
        let scores = node.operands[0];
        let rows = row_index(self.graph, scores).cloned().ok_or_else(|| {
            self.form(node, self.named(scores), "scores of rows of the step over the context")
        })?;
        self.mask(node, &rows)?;
        let indices = self.graph.ty(scores).indices.iter();
        let heads: Vec<Name> =
            indices.filter(|i| **i != rows && *i != self.context).cloned().collect();
        let keys = self.keys(scores)?;
        let values = self.values(node.results[0])?;
        let sources = keys.iter().map(|k| &k.key).chain(values.iter().map(|v| &v.value));
        let mut reads: BTreeSet<ValueId> = sources.map(|s| s.base).collect();
        reads.extend(keys.iter().map(|k| k.query));
        Ok(Claim {
            kind: GroupKind::Attention,
            root: self.softmax,
            rows,
            nodes: self.nodes,
            reads,
            results: values.iter().map(|v| v.result).collect(),
            products: self.products,
            form: ClaimForm::Attention(Form { heads, keys, values }),
        })
    }

    /// Demands that each row sees the context up to its own position.
    fn mask(&mut self, softmax: &Node, rows: &Name) -> Result<(), LowerError> {
        let expected = "the causal mask `k <= q` of positions, `k` from 0 over the context and \
                        `q` from `t - s` over the rows";
        let Some(mask) = softmax.operands.get(1).filter(|_| softmax.masked) else {
            return Err(self.form(softmax, "no mask", expected));
        };
        let positions = self.positions(*mask);
        let Some([key, query]) = positions else {
            return Err(self.form(softmax, format!("the mask {}", self.named(*mask)), expected));
        };
        let new = self.graph.extent(self.context).minus(&self.graph.extent(rows));
        let of = |(_, index, _): &(NodeId, Name, Dim)| index.clone();
        let is_causal =
            of(&key) == *self.context && of(&query) == *rows && query.2.minus(&key.2) == new;
        if !is_causal {
            let found = format!("the mask {} <= {} of {}, {}", key.2, query.2, key.1, query.1);
            return Err(self.form(softmax, found, expected));
        }
        if let Def::Node(id, _) = self.graph.value(*mask).def {
            self.nodes.insert(id);
        }
        self.nodes.extend([key.0, query.0]);
        Ok(())
    }

    /// `[a, b]` of the comparison `a <= b` of two `iota`s: node, index and start of each.
    fn positions(&self, mask: ValueId) -> Option<[(NodeId, Name, Dim); 2]> {
        let Def::Node(id, _) = self.graph.value(mask).def else { return None };
        let node = self.graph.node(id);
        let [Attr::Expr(Expr::Binary(compare, a, b))] = &node.attrs.0[..] else { return None };
        let (Expr::Arg(a), Expr::Arg(b)) = (&**a, &**b) else { return None };
        let (a, b) = match compare {
            Binary::Le => (a, b),
            Binary::Ge => (b, a),
            _ => return None,
        };
        let iota = |at: usize| {
            let value = node.operands[at];
            let Def::Node(id, _) = self.graph.value(value).def else { return None };
            let node = self.graph.node(id);
            match (op_name(node), &node.attrs.0[..], &self.graph.ty(value).indices[..]) {
                ("iota", [Attr::Dim(start)], [index]) => Some((id, index.clone(), start.clone())),
                _ => None,
            }
        };
        Some([iota(*a)?, iota(*b)?])
    }

    fn keys(&mut self, scores: ValueId) -> Result<Vec<KeyPart>, LowerError> {
        let softmax = self.graph.node(self.softmax);
        let expected = "scores that are sums of products of queries with histories";
        let sum = terms(self.graph, scores, &|node| op_name(node) == "contract")
            .map_err(|value| self.form(softmax, self.named(value), expected))?;
        self.nodes.extend(sum.through);
        sum.terms.iter().map(|term| self.key(term)).collect()
    }

    fn key(&mut self, term: &Term) -> Result<KeyPart, LowerError> {
        let node = self.graph.node(term.node);
        let at = self.split(node)?;
        let (query, key) = (node.operands[at], node.operands[1 - at]);
        let (qt, kt) = (self.graph.ty(query), self.graph.ty(key));
        let result = self.graph.ty(node.results[0]);
        let summed = |i: &&Name| !result.has(i);
        let over: Vec<Name> = qt.indices.iter().filter(summed).cloned().collect();
        let of_key: BTreeSet<&Name> = kt.indices.iter().filter(summed).collect();
        if over.iter().collect::<BTreeSet<_>>() != of_key {
            let found = format!("{} with {} to {result}", self.named(query), self.named(key));
            return Err(self.form(node, found, "a sum over indices of queries and keys both"));
        }
        let key = self.source(node, key)?;
        self.nodes.insert(term.node);
        self.products.insert(term.node, at);
        Ok(KeyPart { scale: term.factor, query, key, over })
    }

    /// Position of the operand of a product that is not over the context, where the other is.
    fn split(&self, node: &Node) -> Result<usize, LowerError> {
        let over: Vec<bool> =
            node.operands.iter().map(|v| self.graph.ty(*v).has(self.context)).collect();
        match over[..] {
            [false, true] => Ok(0),
            [true, false] => Ok(1),
            _ => {
                let found: Vec<String> = node.operands.iter().map(|v| self.named(*v)).collect();
                let expected = "a value of rows and one over the context";
                Err(self.form(node, found.join(", "), expected))
            }
        }
    }

    fn source(&mut self, node: &Node, value: ValueId) -> Result<Source, LowerError> {
        let source = Source::of(self.graph, value).map_err(|at| {
            self.form(node, self.named(at), "views of what is appended to a state, or made of it")
        })?;
        self.nodes.extend(&source.views);
        Ok(source)
    }

    fn values(&mut self, shares: ValueId) -> Result<Vec<ValuePart>, LowerError> {
        let softmax = self.graph.node(self.softmax);
        let expected = "a softmax over the context that only products with histories read";
        if self.graph.outputs.contains(&shares) {
            return Err(self.form(softmax, "a result of the block", expected));
        }
        let mut values = vec![];
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let Some(at) = node.operands.iter().position(|v| *v == shares) else { continue };
            if op_name(node) != "contract" || node.operands.len() != 2 {
                return Err(self.form(node, self.named(shares), expected));
            }
            let value = node.operands[1 - at];
            let result = node.results[0];
            let (p, v, ty) = (self.graph.ty(shares), self.graph.ty(value), self.graph.ty(result));
            let kept = |i: &&Name| *i != self.context;
            let sums_context = v.has(self.context)
                && !ty.has(self.context)
                && p.indices.iter().chain(&v.indices).filter(kept).all(|i| ty.has(i));
            if !sums_context {
                let found = format!("{} to {ty}", self.named(value));
                return Err(self.form(node, found, "a sum over the context alone"));
            }
            let own = ty.indices.iter().filter(|i| !p.has(i)).cloned().collect();
            let value = self.source(node, value)?;
            let id = NodeId(i as u32);
            self.nodes.insert(id);
            self.products.insert(id, at);
            values.push(ValuePart { value, own, result });
        }
        Ok(values)
    }
}
