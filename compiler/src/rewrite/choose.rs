//! One block, saturated once, and the graphs chosen from it: first at the decode point, which
//! settles what is kept of a sequence, then at every other.

use super::cost::{ACTIVATION_BYTES, Machine, Point, Spent, Work};
use super::decode::decode;
use super::encode::{Encoded, encode};
use super::extract::{Choice, extract, price_of};
use super::facts::Egraph;
use super::law::{self, Law, Log};
use super::merge::merge_projections;
use super::saturate::{Limits, Saturated, Stop, saturate};
use super::term::Term;
use crate::options::Options;
use crate::pack::format::Formats;
use check::{Certificate, Step, Tag};
use egg::{Id, Language};
use ir::device::DeviceSpec;
use ir::dim::{Dim, Name};
use ir::dtype::Encoding;
use ir::error::IrError;
use ir::graph::Graph;
use ir::graph::program::{Arg, Program};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a sequence keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// What costs least at the decode point, capacity included.
    Auto,
    /// The fewest bytes.
    Latent,
    /// What the source keeps.
    Expanded,
}

/// How to rewrite.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// For which device.
    pub device: &'a DeviceSpec,
    /// At which step the states are settled.
    pub decode: Point,
    /// What is kept.
    pub kept: Kept,
    /// How many times as long as in a form some step must take in the others for it to be added.
    pub gain: f64,
    /// Whether one form is taken for all steps; `None`: where that costs little.
    pub batch_invariant: Option<bool>,
    /// Laws that are left out.
    pub without: BTreeSet<String>,
    /// Whether laws that change the order of sums are left out.
    pub exact: bool,
    /// Limits of saturation.
    pub limits: Limits,
    /// Of blocks by name how parameters are packed, by position, where that is not how they are
    /// stored.
    pub packed: BTreeMap<Name, BTreeMap<usize, Encoding>>,
}

/// How often in each step reading what is held would cost as much as holding it.
const HELD: f64 = 1.0;
/// The same of a second copy of a constant.
const COPIED: f64 = 0.125;
/// Least nanoseconds of a byte that is held, however fast it is read.
const LEAST_NS_PER_BYTE: f64 = 1e-4;
/// Where the fewest bytes are wanted at any price.
const ANY_PRICE_NS_PER_BYTE: f64 = 1e6;

/// A saturated block.
pub struct Block<'a> {
    source: &'a Graph,
    encoded: Encoded,
    saturated: Saturated,
    plan: Plan<'a>,
    /// The source's own e-nodes.
    stated: HashMap<Id, Term>,
    /// Histories that are kept, once settled, in the order in which graphs have them.
    kept: Vec<Id>,
    packed: BTreeSet<Id>,
}

/// A history that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Extents of a token's row.
    pub dims: Vec<Dim>,
    /// The same as numbers.
    pub extents: Vec<i64>,
}

impl State {
    /// Elements of a token's row.
    pub fn elements(&self) -> i64 {
        self.extents.iter().product()
    }
}

/// The graph chosen at a point.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The point.
    pub point: Point,
    /// Equal to the source.
    pub graph: Graph,
    /// Its nanoseconds by the cost model.
    pub price_ns: f64,
    /// The source's.
    pub source_ns: f64,
    /// What it must do.
    pub work: Work,
    /// What its time goes to.
    pub spent: Spent,
    /// The source's work, and what its time goes to.
    pub source: (Work, Spent),
    /// Products: their results' indices, operations and bytes of weights.
    pub products: Vec<Product>,
    /// Laws on the way, with how often.
    pub laws: BTreeMap<&'static str, usize>,
    /// From the source to it, one class of equal terms after the other.
    pub certificate: Certificate,
    choice: Choice,
}

/// One product of a chosen graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Extents of the result.
    pub result: Vec<Dim>,
    /// What it must do.
    pub work: Work,
}

/// Every law that a plan allows.
pub fn laws(plan: &Plan) -> Vec<Law> {
    let allowed =
        |law: &Law| !plan.without.contains(law.name) && (!plan.exact || law.tag == Tag::Exact);
    law::all().into_iter().filter(allowed).collect()
}

impl<'a> Plan<'a> {
    /// As it is by default, with another decode point.
    pub fn new(device: &'a DeviceSpec, decode: Point) -> Plan<'a> {
        Plan { decode, ..Plan::of(&Options::default(), device) }
    }

    /// As the user chose.
    pub fn of(options: &Options, device: &'a DeviceSpec) -> Plan<'a> {
        let (context, batch) = options.decode;
        let (context, batch) = (i64::from(context), i64::from(batch));
        Plan {
            device,
            decode: Point { batch, tokens: 1, context },
            kept: options.kv,
            gain: 1.0 + f64::from(options.form_gain) / 100.0,
            batch_invariant: options.batch_invariant,
            without: options.without.iter().cloned().collect(),
            exact: options.exact,
            limits: Limits { nodes: options.max_e_nodes, ..Limits::default() },
            packed: BTreeMap::new(),
        }
    }

    /// For the weights that a program binds to its blocks, in the formats that are asked for.
    pub fn with_formats(mut self, program: &Program, formats: &Formats) -> Plan<'a> {
        for call in program.entries.iter().flat_map(|entry| &entry.calls) {
            let of = |(at, arg): (usize, &Arg)| match arg {
                Arg::Weight(name) => Some((at, formats.of_weights([name].into_iter())?.typical()?)),
                Arg::Value(_) | Arg::State { .. } => None,
            };
            let packed = call.args.iter().enumerate().filter_map(of);
            self.packed.entry(call.block.clone()).or_default().extend(packed);
        }
        self
    }
}

impl<'a> Block<'a> {
    /// Saturates a block and settles what it keeps. `None` where it cannot be stated as terms.
    pub fn new(source: &'a Graph, plan: Plan<'a>) -> Option<Block<'a>> {
        let laws = laws(&plan);
        Block::with_laws(source, plan, laws)
    }

    /// [`Block::new`] with these laws instead of those that the plan allows.
    pub fn with_laws(source: &'a Graph, plan: Plan<'a>, laws: Vec<Law>) -> Option<Block<'a>> {
        let mut encoded = encode(source)?;
        for (at, encoding) in plan.packed.get(&source.name).into_iter().flatten() {
            encoded.block.params[*at].encoding = *encoding;
        }
        let saturated = saturate(&encoded, laws, plan.limits);
        let (stated, kept, packed) = (HashMap::new(), vec![], BTreeSet::new());
        let mut block = Block { source, encoded, saturated, plan, stated, kept, packed };
        block.stated = block.stated_terms();
        block.settle();
        Some(block)
    }

    /// Why saturation ended, and how large the e-graph is.
    pub fn size(&self) -> (Stop, usize) {
        (self.saturated.stop, self.saturated.egraph.total_number_of_nodes())
    }

    /// How often each law gave something new.
    pub fn applied(&self) -> &BTreeMap<&'static str, usize> {
        &self.saturated.applied
    }

    /// The source's e-nodes by class, the first of equal ones.
    fn stated_terms(&mut self) -> HashMap<Id, Term> {
        let egraph = &mut self.saturated.egraph;
        let mut ids: Vec<Id> = vec![];
        let mut stated = vec![];
        for node in self.encoded.term.as_ref() {
            let node = node.clone().map_children(|c| egraph.find(ids[usize::from(c)]));
            let id = egraph.add(node.clone());
            ids.push(id);
            stated.push((id, node));
        }
        let mut first = HashMap::new();
        for (id, node) in stated {
            first.entry(egraph.find(id)).or_insert(node);
        }
        first
    }

    fn machine(&self, point: Point) -> Machine<'a> {
        Machine::new(self.plan.device, point, &self.source.symbols)
    }

    /// Nanoseconds of holding a byte that reading so often costs.
    fn held_ns(&self, times: f64) -> f64 {
        (times * 1e9 / self.plan.device.read_bytes_per_s).max(LEAST_NS_PER_BYTE)
    }

    /// Nanoseconds that holding states at the decode point is charged.
    pub fn holding_ns(&self, states: &[State]) -> f64 {
        let elements: f64 = states.iter().map(|state| state.elements() as f64).sum();
        let Point { batch, context, .. } = self.plan.decode;
        elements * ACTIVATION_BYTES * batch as f64 * context as f64 * self.held_ns(HELD)
    }

    /// Chooses the histories to keep, and with them the graph of the decode point.
    fn settle(&mut self) {
        let plain = self.machine(self.plan.decode);
        let priced = |ns| Machine { history_ns_per_byte: ns, ..plain.clone() };
        let fewest = priced(ANY_PRICE_NS_PER_BYTE);
        let (machine, choice) = match self.plan.kept {
            Kept::Auto => self.best_kept(&priced(self.held_ns(HELD)), &fewest),
            Kept::Latent => (fewest.clone(), self.best(&fewest)),
            Kept::Expanded => {
                let stated = self.keeping(&plain, None);
                (stated.clone(), self.best(&stated))
            }
        };
        self.kept = histories(&choice.nodes).into_iter().collect();
        self.packed = constants(&self.saturated.egraph, &machine, &choice);
    }

    /// The best choice, and for which machine: whatever is kept, or as few bytes as can be, or what
    /// the source keeps. From one of these to another is further than extraction searches.
    fn best_kept<'m>(
        &mut self,
        machine: &Machine<'m>,
        fewest: &Machine<'m>,
    ) -> (Machine<'m>, Choice) {
        let few = self.best(fewest);
        // All merge their own projections before any is compared.
        let stated = self.keeping(machine, None);
        self.merge(&stated);
        self.merge(machine);
        let machines =
            [machine.clone(), self.keeping(machine, Some(&few)), self.keeping(machine, None)];
        let choices = machines.map(|m| {
            let choice = extract(&self.saturated.egraph, self.saturated.root, &m);
            (m, choice)
        });
        let cheaper =
            |a: (_, Choice), b: (_, Choice)| if b.1.price_ns < a.1.price_ns { b } else { a };
        choices.into_iter().reduce(cheaper).expect("there are three")
    }

    /// Where only what a choice keeps is kept, or the source.
    fn keeping<'m>(&self, machine: &Machine<'m>, choice: Option<&Choice>) -> Machine<'m> {
        let nodes = choice.map_or(&self.stated, |choice| &choice.nodes);
        let egraph = &self.saturated.egraph;
        let kept = histories(nodes).into_iter().map(|id| egraph.find(id)).collect();
        Machine { kept: Some(kept), ..machine.clone() }
    }

    /// Extracts, merges projections of what was chosen, extracts again.
    fn best(&mut self, machine: &Machine) -> Choice {
        let (choice, merged) = self.merge(machine);
        if merged == 0 {
            return choice;
        }
        let Saturated { egraph, root, .. } = &self.saturated;
        let find = |ids: &BTreeSet<Id>| ids.iter().map(|id| egraph.find(*id)).collect();
        let (kept, packed) = (machine.kept.as_ref().map(find), machine.packed.as_ref().map(find));
        extract(egraph, *root, &Machine { kept, packed, ..machine.clone() })
    }

    /// Extracts, and adds merged projections of what was chosen: how many.
    fn merge(&mut self, machine: &Machine) -> (Choice, usize) {
        let Saturated { egraph, root, .. } = &mut self.saturated;
        let choice = extract(egraph, *root, machine);
        if self.plan.without.contains(super::merge::NAME) {
            return (choice, 0);
        }
        let merged = merge_projections(egraph, &choice);
        self.stated = std::mem::take(&mut self.stated)
            .into_iter()
            .map(|(id, term)| (egraph.find(id), term.map_children(|c| egraph.find(c))))
            .collect();
        (choice, merged)
    }

    /// What is kept of each token.
    pub fn states(&self) -> Vec<State> {
        self.rows_of(&self.kept)
    }

    /// What the source would keep of each token.
    pub fn stated_states(&self) -> Vec<State> {
        self.rows_of(&histories(&self.stated).into_iter().collect::<Vec<_>>())
    }

    /// Tokens' rows of histories.
    fn rows_of(&self, histories: &[Id]) -> Vec<State> {
        let machine = self.machine(self.plan.decode);
        let egraph = &self.saturated.egraph;
        let state = |id: &Id| {
            let facts = &egraph[egraph.find(*id)].data;
            let rows = facts.shape.iter().zip(&facts.context).filter(|(_, context)| !**context);
            let dims: Vec<Dim> = rows.map(|(dim, _)| dim.clone()).collect();
            let extents = dims.iter().map(|d| machine.value(d) as i64).collect();
            State { dims, extents }
        };
        histories.iter().map(state).collect()
    }

    /// The graph for a point.
    ///
    /// Errors: a term that is no graph, a mistake of a law.
    pub fn choose(&mut self, point: Point) -> Result<Chosen, IrError> {
        let (graph, choice) = self.extract(point)?;
        self.account(point, graph, choice)
    }

    /// A choice, with what it costs at another point.
    ///
    /// Errors: a term that is no graph, a mistake of a law.
    pub fn at(&self, chosen: &Chosen, point: Point) -> Result<Chosen, IrError> {
        let choice = Choice { nodes: self.now(&chosen.choice), ..chosen.choice.clone() };
        self.account(point, chosen.graph.clone(), choice)
    }

    /// The graph for a point alone, and the choice that it is.
    pub(super) fn extract(&mut self, point: Point) -> Result<(Graph, Choice), IrError> {
        let mut machine = self.machine(point);
        let egraph = &self.saturated.egraph;
        machine.kept = Some(self.kept.iter().map(|id| egraph.find(*id)).collect());
        machine.packed = Some(self.packed.iter().map(|id| egraph.find(*id)).collect());
        machine.copy_ns_per_byte = self.held_ns(COPIED);
        let choice = self.best(&machine);
        self.packed.extend(constants(&self.saturated.egraph, &machine, &choice));
        let Saturated { egraph, root, .. } = &self.saturated;
        let graph = decode(self.source, &choice.term(egraph, egraph.find(*root), &self.kept))?;
        Ok((graph, choice))
    }

    /// What is to be known of a choice.
    pub(super) fn account(
        &self,
        point: Point,
        graph: Graph,
        choice: Choice,
    ) -> Result<Chosen, IrError> {
        let plain = self.machine(point);
        let Saturated { egraph, root, .. } = &self.saturated;
        let root = egraph.find(*root);
        let log = egraph.analysis.log.canonical(egraph);
        let mut laws = BTreeMap::new();
        let used = choice.nodes.values().flat_map(|term| log.steps(term));
        used.for_each(|step| *laws.entry(step.law).or_insert(0) += 1);
        let (work, spent, products) = counted(egraph, &plain, &choice.nodes);
        let (source_work, source_spent, _) = counted(egraph, &plain, &self.stated);
        let price_ns = price_of(egraph, root, &choice.nodes, &plain);
        let source_ns = price_of(egraph, root, &self.stated, &plain);
        let certificate = self.certificate(&choice, &log)?;
        let source = (source_work, source_spent);
        Ok(Chosen {
            point,
            graph,
            price_ns,
            source_ns,
            work,
            spent,
            source,
            products,
            laws,
            certificate,
            choice,
        })
    }

    /// Nanoseconds of a choice at another point.
    pub fn price(&self, chosen: &Chosen, point: Point) -> f64 {
        let Saturated { egraph, root, .. } = &self.saturated;
        let nodes = self.now(&chosen.choice);
        price_of(egraph, egraph.find(*root), &nodes, &self.machine(point))
    }

    /// E-nodes of a choice that was made before the e-graph grew: of classes that are one by now, the
    /// oldest's.
    fn now(&self, choice: &Choice) -> HashMap<Id, Term> {
        let egraph = &self.saturated.egraph;
        let now = |(id, term): (&Id, &Term)| {
            (egraph.find(*id), term.clone().map_children(|c| egraph.find(c)))
        };
        let ordered: BTreeMap<&Id, &Term> = choice.nodes.iter().collect();
        ordered.into_iter().rev().map(now).collect()
    }

    /// Nanoseconds of the source at a point.
    pub fn stated_price(&self, point: Point) -> f64 {
        let Saturated { egraph, root, .. } = &self.saturated;
        price_of(egraph, egraph.find(*root), &self.stated, &self.machine(point))
    }

    /// The way from the source to a choice: one class after the other, operands first, is taken as
    /// chosen instead of as stated.
    fn certificate(&self, choice: &Choice, log: &Log) -> Result<Certificate, IrError> {
        let Saturated { egraph, root, .. } = &self.saturated;
        let root = egraph.find(*root);
        let order = upward(egraph, root, &choice.nodes);
        let mut current = Choice { nodes: self.stated.clone(), price_ns: 0.0 };
        let mut steps = vec![];
        let mut new: Vec<law::Step> = vec![];
        let mut last = current.term(egraph, root, &self.kept);
        for class in order {
            let term = &choice.nodes[&class];
            let before = current.nodes.insert(class, term.clone());
            if before.as_ref() == Some(term) {
                continue;
            }
            new.extend(log.steps(term));
            let now = current.term(egraph, root, &self.kept);
            if now == last {
                continue;
            }
            let tag = new.iter().map(|step| step.tag).max().unwrap_or(Tag::Exact);
            let rule = new.last().map_or("congruence", |step| step.law);
            steps.push(Step { rule: rule.into(), tag, graph: decode(self.source, &now)? });
            new.clear();
            last = now;
        }
        // Where laws found values of the source's own equal, or its terms read otherwise as a graph,
        // the choice may differ from it without a step.
        let chosen = decode(self.source, &last)?;
        if steps.last().map_or(self.source, |step: &Step| &step.graph) != &chosen {
            steps.push(Step { rule: "congruence".into(), tag: Tag::Exact, graph: chosen });
        }
        Ok(Certificate { source: self.source.clone(), steps })
    }
}

fn histories(nodes: &HashMap<Id, Term>) -> BTreeSet<Id> {
    nodes.iter().filter(|(_, term)| term.op() == Some("history")).map(|(id, _)| *id).collect()
}

/// Constants that the products of a choice read.
fn constants(egraph: &Egraph, machine: &Machine, choice: &Choice) -> BTreeSet<Id> {
    let products = choice.nodes.iter().filter(|(id, _)| !egraph[**id].data.constant);
    let operands = products.filter_map(|(_, term)| term.parts()).flat_map(|(_, ids)| ids);
    let sources = operands.map(|id| machine.source_of(egraph, *id));
    sources.filter(|id| egraph[*id].data.constant).collect()
}

fn counted(
    egraph: &Egraph,
    machine: &Machine,
    nodes: &HashMap<Id, Term>,
) -> (Work, Spent, Vec<Product>) {
    let (mut total, mut spent) = (Work::default(), Spent::default());
    let mut products = vec![];
    let mut classes: Vec<(&Id, &Term)> = nodes.iter().collect();
    classes.sort();
    for (class, term) in classes {
        let work = machine.work(egraph, *class, term);
        total = total.plus(work);
        spent = spent.plus(machine.spent(&work));
        if work.flops + work.slow_flops > 0.0 && term.op() == Some("contract") {
            products.push(Product { result: egraph[*class].data.shape.clone(), work });
        }
    }
    (total, spent, products)
}

/// Classes of a choice, operands before what uses them.
fn upward(egraph: &Egraph, root: Id, nodes: &HashMap<Id, Term>) -> Vec<Id> {
    let (mut order, mut seen) = (vec![], BTreeSet::from([root]));
    let mut stack = vec![(root, 0)];
    while let Some((class, next)) = stack.pop() {
        match nodes[&class].children().get(next) {
            None => order.push(class),
            Some(child) => {
                stack.push((class, next + 1));
                let child = egraph.find(*child);
                if seen.insert(child) {
                    stack.push((child, 0));
                }
            }
        }
    }
    order
}
