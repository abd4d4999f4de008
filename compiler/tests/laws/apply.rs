//! A law alone, applied once: both sides as graphs.

use super::draft::Rng;
use compiler::rewrite::decode::decode;
use compiler::rewrite::extract::Choice;
use compiler::rewrite::facts::{Block, Egraph};
use compiler::rewrite::law::{Law, Site};
use compiler::rewrite::term::{ADD, Form, FormAttr, Label, RETURN, Term};
use egg::{Id, Language, Pattern, RecExpr, Searcher};
use ir::dtype::Class;
use ir::error::IrError;
use ir::graph::Graph;
use std::collections::HashMap;

/// A law with its patterns read.
pub struct Alone {
    pub law: Law,
    patterns: Vec<Pattern<Term>>,
}

/// Two sides of a law, by which of its cases.
pub struct Applied {
    pub case: usize,
    pub left: Graph,
    pub right: Graph,
}

impl Alone {
    pub fn new(law: Law) -> Alone {
        let read = |(text, _): &(String, _)| text.parse().expect("a pattern");
        let patterns = law.cases.iter().map(read).collect();
        Alone { law, patterns }
    }

    pub fn cases(&self) -> usize {
        self.patterns.len()
    }

    /// Every application within a term, to terms that it made itself too.
    pub fn applications(
        &self,
        source: &Graph,
        term: &RecExpr<Term>,
        rounds: usize,
    ) -> Applications<'_> {
        let mut egraph = Egraph::new(Block::of(source));
        egraph.add_expr(term);
        let mut sides: Vec<(usize, Id, Id)> = vec![];
        for _ in 0..rounds {
            egraph.rebuild();
            let found: Vec<_> = self.patterns.iter().map(|p| p.search(&egraph)).collect();
            for (case, matches) in found.iter().enumerate() {
                for found in matches {
                    for subst in &found.substs {
                        let sides_of = &self.law.cases[case].1;
                        let equal = sides_of(&mut Site::new(&mut egraph, subst));
                        let left = found.eclass;
                        sides.extend(equal.into_iter().map(|id| (case, left, egraph.find(id))));
                    }
                }
            }
            sides.sort();
            sides.dedup();
        }
        egraph.rebuild();
        sides.retain(|(_, left, right)| left != right);
        Applications { name: self.law.name, source: source.clone(), egraph, sides }
    }
}

/// What a law said of a term. Nothing is united, so that each class is one e-node and each side one
/// term.
pub struct Applications<'a> {
    name: &'a str,
    source: Graph,
    egraph: Egraph,
    /// Case, and both sides.
    pub sides: Vec<(usize, Id, Id)>,
}

impl Applications<'_> {
    /// Both sides as graphs.
    pub fn graphs(&self, (case, left, right): (usize, Id, Id)) -> Applied {
        let name = self.name;
        let graph = |id: Id| {
            let graph = decoded(&self.source, &self.egraph, id);
            graph.unwrap_or_else(|e| panic!("{name}: no graph: {e}"))
        };
        let (l, r) = (&self.egraph[left].data, &self.egraph[right].data);
        assert_eq!((&l.shape, l.class), (&r.shape, r.class), "{name}: a side's type");
        Applied { case, left: graph(left), right: graph(right) }
    }
}

/// A term at random of those that an e-graph has for a class.
pub fn term_at_random(egraph: &Egraph, root: Id, rng: &mut Rng) -> RecExpr<Term> {
    let mut chosen: HashMap<Id, Term> = HashMap::new();
    let classes: Vec<Id> = egraph.classes().map(|class| class.id).collect();
    let root = egraph.find(root);
    while !chosen.contains_key(&root) {
        for class in rng.shuffled(&classes) {
            let known = |node: &&Term| {
                node.children().iter().all(|c| chosen.contains_key(&egraph.find(*c)))
            };
            let ready: Vec<Term> = egraph[class].nodes.iter().filter(known).cloned().collect();
            // Not always at once, so that e-nodes that are ready late have a chance.
            let wait = ready.len() < egraph[class].nodes.len() && rng.chance(70);
            if !chosen.contains_key(&class) && !ready.is_empty() && !wait {
                chosen.insert(class, rng.pick(&ready));
            }
        }
    }
    let choice = Choice { nodes: chosen, price_ns: 0.0 };
    choice.term(egraph, root, &[])
}

/// The graph that returns the one term of a class; twice a number, so that it is f32 in any case.
fn decoded(source: &Graph, egraph: &Egraph, id: Id) -> Result<Graph, IrError> {
    let mut term = RecExpr::default();
    let facts = &egraph[id].data;
    let axes: Vec<Label> = (0..facts.shape.len() as Label).collect();
    let mut value = copied(egraph, egraph.find(id), &mut term, &mut HashMap::new());
    if facts.class == Class::Float {
        let form = term.add(Term::Form(Form::new(&[&axes, &axes], &axes).canonical()));
        value = term.add(Term::Apply(ADD, [form, value, value].into()));
    }
    let form = Form::new(&[&axes], &[]).with([FormAttr::Labels(axes.clone())]);
    let form = term.add(Term::Form(form.canonical()));
    term.add(Term::Apply(RETURN, [form, value].into()));
    decode(source, &term)
}

fn copied(egraph: &Egraph, id: Id, term: &mut RecExpr<Term>, done: &mut HashMap<Id, Id>) -> Id {
    if let Some(known) = done.get(&id) {
        return *known;
    }
    let [node] = &egraph[id].nodes[..] else { panic!("nothing was united") };
    let node = node.clone().map_children(|c| copied(egraph, egraph.find(c), term, done));
    let new = term.add(node);
    done.insert(id, new);
    new
}
