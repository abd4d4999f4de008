//! What a law is, and how it is applied.

use super::facts::{Block, Egraph, Facts, form_of, natural};
use super::laws;
use super::term::{Axes, FRESH, Form, Label, Term};
use check::Tag;
use egg::{Applier, ENodeOrVar, Id, Language, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Terms equal to what matches a pattern, none where a side condition fails.
pub type Sides = Box<dyn Fn(&mut Site<'_>) -> Vec<Id> + Send + Sync>;

/// A law: patterns with what each is equal to.
pub struct Law {
    /// Unique; the same in texts and options.
    pub name: &'static str,
    /// What it keeps of the arithmetic.
    pub tag: Tag,
    /// One statement, for reports.
    pub statement: &'static str,
    /// Left sides, and what makes the right ones.
    pub cases: Vec<(String, Sides)>,
}

impl Law {
    /// A law without cases yet.
    pub fn new(name: &'static str, tag: Tag, statement: &'static str) -> Law {
        Law { name, tag, statement, cases: vec![] }
    }

    /// With one more left side.
    pub fn case(
        mut self,
        pattern: impl Into<String>,
        sides: impl Fn(&mut Site<'_>) -> Vec<Id> + Send + Sync + 'static,
    ) -> Law {
        self.cases.push((pattern.into(), Box::new(sides)));
        self
    }

    /// As rewrites of the e-graph.
    pub fn rewrites(self) -> Vec<Rewrite<Term, Block>> {
        let (name, tag) = (self.name, self.tag);
        let rewrite = |(pattern, sides): (String, Sides)| {
            let pattern: Pattern<Term> = pattern.parse().expect("a law's pattern is well-formed");
            let left = pattern.ast.clone();
            let computed = Computed { step: Step { law: name, tag }, left, sides };
            Rewrite::new(name, pattern, computed).expect("a law's right side has no variables")
        };
        self.cases.into_iter().map(rewrite).collect()
    }
}

/// By which law an e-node came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Name.
    pub law: &'static str,
    /// What it keeps.
    pub tag: Tag,
}

/// What e-nodes were made from: by which step, from which e-node of the same class.
#[derive(Clone, Debug, Default)]
pub struct Log {
    made: HashMap<Term, (Step, Option<Term>)>,
}

impl Log {
    /// Records that a law made an e-node of another. The first law counts.
    pub fn record(&mut self, new: &Term, step: Step, of: Option<Term>) {
        self.made.entry(new.clone()).or_insert((step, of));
    }

    /// The log with all e-nodes as they are called now.
    pub fn canonical(&self, egraph: &Egraph) -> Log {
        let now = |term: &Term| term.clone().map_children(|id| egraph.find(id));
        let mut log = Log::default();
        let mut made: Vec<_> = self.made.iter().collect();
        made.sort();
        for (term, (step, of)) in made {
            log.record(&now(term), *step, of.as_ref().map(now));
        }
        log
    }

    /// Steps that lead to an e-node, the last one first.
    pub fn steps(&self, term: &Term) -> Vec<Step> {
        let (mut steps, mut at, mut seen) = (vec![], term, vec![]);
        while let Some((step, of)) = self.made.get(at) {
            steps.push(*step);
            seen.push(at);
            match of {
                Some(of) if !seen.contains(&of) => at = of,
                _ => break,
            }
        }
        steps
    }
}

/// Every law, by theme.
pub fn all() -> Vec<Law> {
    let themes = [
        laws::contraction::laws,
        laws::views::laws,
        laws::sums::laws,
        laws::history::laws,
        laws::sparse::laws,
        laws::join::laws,
    ];
    themes.into_iter().flat_map(|theme| theme()).collect()
}

struct Computed {
    step: Step,
    left: PatternAst<Term>,
    sides: Sides,
}

impl Applier<Term, Block> for Computed {
    fn apply_one(
        &self,
        egraph: &mut Egraph,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let equals = (self.sides)(&mut Site::new(egraph, subst));
        let mut changed = vec![];
        for id in equals {
            let new = egraph.id_to_node(id).clone();
            if egraph.union(class, id) {
                let of = instance(egraph, &self.left, subst);
                egraph.analysis.log.record(&new, self.step, of);
                changed.push(egraph.find(id));
            }
        }
        changed
    }
}

/// The e-node that matched, where its operands are found again.
fn instance(egraph: &Egraph, pattern: &PatternAst<Term>, subst: &Subst) -> Option<Term> {
    let mut ids: Vec<Id> = vec![];
    let nodes = pattern.as_ref();
    for (at, node) in nodes.iter().enumerate() {
        let node = match node {
            ENodeOrVar::Var(var) => {
                ids.push(subst[*var]);
                continue;
            }
            ENodeOrVar::ENode(node) => node.clone().map_children(|c| ids[usize::from(c)]),
        };
        if at + 1 == nodes.len() {
            return Some(node);
        }
        ids.push(egraph.lookup(node)?);
    }
    None
}

/// A place where a pattern matches.
pub struct Site<'a> {
    /// Where terms are added.
    pub egraph: &'a mut Egraph,
    subst: &'a Subst,
}

/// Axes of a value within the place at hand, and the value.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Labels.
    pub axes: Axes,
    /// Class.
    pub id: Id,
}

impl Operand {
    /// Whether it has an axis.
    pub fn has(&self, label: Label) -> bool {
        self.axes.contains(&label)
    }
}

impl<'a> Site<'a> {
    /// Where a pattern matched with these variables.
    pub fn new(egraph: &'a mut Egraph, subst: &'a Subst) -> Site<'a> {
        Site { egraph, subst }
    }

    /// What a variable stands for.
    pub fn id(&self, name: &str) -> Id {
        let var: Var = name.parse().expect("a variable's name begins with ?");
        self.subst[var]
    }

    /// The form that a variable stands for.
    pub fn form(&self, name: &str) -> Arc<Form> {
        form_of(self.egraph, self.id(name))
    }

    /// What is known of a value.
    pub fn facts(&self, id: Id) -> &Facts {
        &self.egraph[id].data
    }

    /// Whether two ids are one class.
    pub fn same(&self, a: Id, b: Id) -> bool {
        self.egraph.find(a) == self.egraph.find(b)
    }

    /// Applies an op.
    pub fn add(&mut self, op: &'static str, form: Form, operands: &[Id]) -> Id {
        let form = self.egraph.add(Term::Form(form.canonical()));
        self.egraph.add_uncanonical(Term::Apply(op, [&[form], operands].concat().into()))
    }

    /// The sum of products of two values.
    pub fn product(&mut self, x: &Operand, y: &Operand, result: &[Label]) -> Id {
        let (x, y) = self.in_order(x, y);
        self.add("contract", Form::new(&[&x.axes, &y.axes], result), &[x.id, y.id])
    }

    /// Two operands of what commutes, in the one order of the e-graph.
    pub fn in_order<'o>(&self, x: &'o Operand, y: &'o Operand) -> (&'o Operand, &'o Operand) {
        let key = |o: &Operand| (self.facts(o.id).constant, self.egraph.find(o.id));
        if key(x) <= key(y) { (x, y) } else { (y, x) }
    }

    /// Rows of `x` along `label` that `index` names; `x` itself where it has no such axis.
    pub fn gathered(&mut self, x: &Operand, label: Label, index: &Operand) -> Operand {
        if !x.has(label) {
            return x.clone();
        }
        let axes = natural(&[&x.axes, &index.axes], |l| l != label);
        let form = Form::gather(&x.axes, &index.axes, label, &axes);
        Operand { id: self.add("gather", form, &[x.id, index.id]), axes }
    }

    /// Ones along axes of these extents.
    pub fn ones(&mut self, axes: &[(Label, ir::dim::Dim)]) -> Operand {
        let id = self.add("const", Form::number(1.0, axes), &[]);
        Operand { axes: axes.iter().map(|(label, _)| *label).collect(), id }
    }
}

/// Renames a form's labels into another's.
pub struct Onto {
    names: BTreeMap<Label, Label>,
    next: Label,
}

impl Onto {
    /// So that the labels `from` read `to`. Labels beyond these become new ones, above all of `to`.
    pub fn new(from: &[Label], to: &[Label]) -> Onto {
        let greatest = to.iter().copied().max().unwrap_or(FRESH);
        Onto::after(from, to, greatest.max(FRESH))
    }

    /// The same, new labels beginning at `next`.
    pub fn after(from: &[Label], to: &[Label], next: Label) -> Onto {
        Onto { names: from.iter().copied().zip(to.iter().copied()).collect(), next }
    }

    /// Makes one label read another.
    pub fn tie(&mut self, from: Label, to: Label) {
        self.names.insert(from, to);
    }

    /// One label.
    pub fn label(&mut self, label: Label) -> Label {
        *self.names.entry(label).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }

    /// Axes, as those of a value.
    pub fn axes(&mut self, axes: &[Label]) -> Axes {
        axes.iter().map(|label| self.label(*label)).collect()
    }

    /// An operand of the form.
    pub fn operand(&mut self, axes: &[Label], id: Id) -> Operand {
        Operand { axes: self.axes(axes), id }
    }
}
