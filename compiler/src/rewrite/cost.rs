//! What an e-node costs on a device: a roofline that knows fusion.
//!
//! A product is a kernel; what is computed element by element rides on its neighbours. A value with
//! rows of the step and of the context stays on chip. Weights cost the bytes of their encoding at
//! each step, of experts those that some row chose.

use super::facts::{Egraph, Facts, form_of, label_extents};
use super::term::{ADD, Form, Label, RETURN, Term};
use egg::Id;
use ir::device::DeviceSpec;
use ir::dim::{Dim, Name, Symbols};
use ir::dtype::{Class, DType, Encoding};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A step: how many sequences, new tokens of each, and tokens of each with the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Point {
    /// Sequences.
    pub batch: i64,
    /// New tokens of a sequence.
    pub tokens: i64,
    /// Tokens of a sequence, the new ones among them.
    pub context: i64,
}

/// What must be done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of products.
    pub flops: f64,
    /// Operations at the rate of f32: element by element, and products with weights in f32.
    pub slow_flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// Of these, bytes of weights.
    pub weight_bytes: f64,
    /// Of the others, bytes of what has a row for each token of the context and none of the step.
    pub context_bytes: f64,
    /// Kernels.
    pub launches: f64,
}

impl Work {
    /// Both.
    pub fn plus(self, other: Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            slow_flops: self.slow_flops + other.slow_flops,
            bytes: self.bytes + other.bytes,
            weight_bytes: self.weight_bytes + other.weight_bytes,
            context_bytes: self.context_bytes + other.context_bytes,
            launches: self.launches + other.launches,
        }
    }
}

/// What nanoseconds go to: of each kernel, to what it waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// To arithmetic.
    pub arithmetic: f64,
    /// To reading weights.
    pub weights: f64,
    /// To what has a row for each token of the context.
    pub context: f64,
    /// To other values.
    pub values: f64,
    /// To launches.
    pub launches: f64,
}

impl Spent {
    /// Both.
    pub fn plus(self, other: Spent) -> Spent {
        Spent {
            arithmetic: self.arithmetic + other.arithmetic,
            weights: self.weights + other.weights,
            context: self.context + other.context,
            values: self.values + other.values,
            launches: self.launches + other.launches,
        }
    }
}

/// A device at a step.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// Its numbers.
    pub device: &'a DeviceSpec,
    /// The step.
    pub point: Point,
    /// Values of symbols.
    pub values: BTreeMap<Name, i64>,
    /// Histories that are kept, where that is settled.
    pub kept: Option<BTreeSet<Id>>,
    /// Constants that are packed already: others are one more copy.
    pub packed: Option<BTreeSet<Id>>,
    /// Nanoseconds that a byte of a history is charged for being held.
    pub history_ns_per_byte: f64,
    /// The same of one more copy of a constant.
    pub copy_ns_per_byte: f64,
}

/// Bytes of an element of an activation or a state.
pub const ACTIVATION_BYTES: f64 = 2.0;
/// Nanoseconds that settle a tie: fewer nodes are better.
const TIE_NS: f64 = 1e-6;
/// Nanoseconds of what must not be chosen.
const FORBIDDEN_NS: f64 = 1e15;

impl<'a> Machine<'a> {
    /// A device at a step of a block with these symbols: nothing is kept or packed yet, and holding
    /// costs nothing.
    pub fn new(device: &'a DeviceSpec, point: Point, symbols: &Symbols) -> Machine<'a> {
        let bound = symbols.iter().filter_map(|(name, s)| Some((name.clone(), s.value?)));
        let mut values: BTreeMap<Name, i64> = bound.collect();
        for (name, value) in [("s", point.tokens), ("t", point.context), ("m", 1)] {
            values.insert(name.into(), value);
        }
        let (history_ns_per_byte, copy_ns_per_byte) = (0.0, 0.0);
        let (kept, packed) = (None, None);
        Machine { device, point, values, kept, packed, history_ns_per_byte, copy_ns_per_byte }
    }

    /// An extent's value.
    pub fn value(&self, dim: &Dim) -> f64 {
        dim.eval(&|name| self.values.get(name).copied()).map_or(f64::INFINITY, |v| v as f64)
    }

    /// Elements of axes over all sequences of the step.
    fn count<'d>(&self, egraph: &Egraph, dims: impl IntoIterator<Item = &'d Dim>) -> f64 {
        let (mut count, mut stepped) = (1.0, false);
        for dim in dims {
            count *= self.value(dim);
            stepped |= egraph.analysis.is_step(dim);
        }
        if stepped { count * self.point.batch as f64 } else { count }
    }

    fn elements(&self, egraph: &Egraph, facts: &Facts) -> f64 {
        self.count(egraph, &facts.shape)
    }

    /// Bytes of a value where it lies in memory.
    fn stored(&self, egraph: &Egraph, facts: &Facts) -> f64 {
        let each = match facts.class {
            _ if facts.weight_like => encoded_bytes(facts.encoding),
            Class::Float => ACTIVATION_BYTES,
            Class::Int => 4.0,
            Class::Bool => 1.0,
        };
        self.elements(egraph, facts) * each
    }

    /// Whether a value never leaves the kernel that makes it: a row for each token of the step, and
    /// for each of the context.
    fn on_chip(&self, egraph: &Egraph, class: Id) -> bool {
        let facts = &egraph[class].data;
        let rows = facts.shape.iter().zip(&facts.context);
        let rows = rows.filter(|(dim, context)| !**context && egraph.analysis.is_step(dim)).count();
        let view = |node: &Term| matches!(node.op(), Some("gather" | "history"));
        rows > 0 && facts.context.contains(&true) && !egraph[class].nodes.iter().any(view)
    }

    /// Bytes that an op reads of an operand: of rows chosen from a constant, the distinct ones.
    pub fn read(&self, egraph: &Egraph, class: Id) -> f64 {
        let facts = &egraph[class].data;
        if self.on_chip(egraph, class) {
            return 0.0;
        }
        let own = self.stored(egraph, facts);
        let chosen = egraph[class].nodes.iter().filter_map(|node| match node {
            Term::Apply("gather", ids) if egraph[ids[1]].data.constant => {
                let form = form_of(egraph, ids[0]);
                let at = form.operands[0].iter().position(|l| *l == form.label(0))?;
                let rows = self.value(&egraph[ids[1]].data.shape[at]);
                Some(self.read(egraph, ids[1]) / rows * self.distinct_rows(egraph, ids[2]))
            }
            _ => None,
        });
        chosen.fold(own, f64::min)
    }

    /// Expected number of different rows that an index names over the step.
    fn distinct_rows(&self, egraph: &Egraph, index: Id) -> f64 {
        let facts = &egraph[index].data;
        let below = facts.below.as_ref().map_or(f64::INFINITY, |d| self.value(d));
        let from = facts.from.as_ref().map_or(0.0, |d| self.value(d));
        let mut rows = (below - from).min(self.elements(egraph, facts));
        for node in &egraph[index].nodes {
            let Term::Apply(op, ids) = node else { continue };
            let form = form_of(egraph, ids[0]);
            rows = rows.min(match *op {
                "topk" => {
                    let chosen = self.value(&form.extents[&form.label(1)]);
                    let draws = self.elements(egraph, facts) / chosen;
                    below * (1.0 - (1.0 - chosen / below).powf(draws))
                }
                "concat" => ids[1..].iter().map(|id| self.distinct_rows(egraph, *id)).sum(),
                _ => continue,
            });
        }
        rows
    }

    /// Work of an e-node.
    pub fn work(&self, egraph: &Egraph, class: Id, node: &Term) -> Work {
        let facts = &egraph[class].data;
        let Some((form, operands)) = node.parts() else { return Work::default() };
        if facts.constant {
            return Work::default();
        }
        let form = form_of(egraph, form);
        let on_chip = self.on_chip(egraph, class);
        let written = if on_chip { 0.0 } else { self.stored(egraph, facts) };
        match node.op() {
            Some("contract") if on_chip && self.is_scale(egraph, operands) => Work::default(),
            Some("contract") => {
                let work = self.product(egraph, facts, &form, operands, (on_chip, written));
                let made = if self.is_of_context(egraph, class) { written } else { 0.0 };
                Work { context_bytes: work.context_bytes + made, ..work }
            }
            Some("history") => {
                let rows = self.read(egraph, operands[0]);
                Work { bytes: rows, ..Work::default() }
            }
            Some("split" | "merge" | "slice" | "const" | "iota") => Work::default(),
            Some("gather") if facts.weight_like => Work::default(),
            Some("concat") if facts.weight_like => Work::default(),
            // Sums of products on chip go into the products' sums, and scales into functions of them.
            Some(ADD) if on_chip => Work::default(),
            Some(RETURN) => Work::default(),
            _ => self.pass(egraph, facts, written),
        }
    }

    fn is_scale(&self, egraph: &Egraph, operands: &[Id]) -> bool {
        operands.iter().any(|id| egraph[*id].data.constant && egraph[*id].data.is_scalar())
    }

    /// Each element once, on its way to or from a product.
    fn pass(&self, egraph: &Egraph, facts: &Facts, written: f64) -> Work {
        Work { slow_flops: self.elements(egraph, facts), bytes: written, ..Work::default() }
    }

    fn product(
        &self,
        egraph: &Egraph,
        result: &Facts,
        form: &Form,
        operands: &[Id],
        (on_chip, written): (bool, f64),
    ) -> Work {
        if form.all_labels().len() == form.result.len() {
            return self.pass(egraph, result, written);
        }
        let facts: Vec<&Facts> = operands.iter().map(|id| &egraph[*id].data).collect();
        let extents = label_extents(form, &facts);
        let partial = self.partial_sums(egraph, form, operands, &extents);
        let reads: f64 = operands.iter().map(|id| self.read(egraph, *id)).sum();
        let weights = operands.iter().filter(|id| egraph[**id].data.weight_like);
        let of_context = operands.iter().filter(|id| self.is_of_context(egraph, **id));
        let wide = facts.iter().any(|f| f.weight_like && f.encoding == DType::F32.into());
        let flops = 2.0 * self.count(egraph, extents.values());
        Work {
            flops: if wide { 0.0 } else { flops },
            slow_flops: if wide { flops } else { 0.0 },
            bytes: reads + written + 2.0 * partial * written,
            weight_bytes: weights.map(|id| self.read(egraph, *id)).sum(),
            context_bytes: of_context.map(|id| self.read(egraph, *id)).sum(),
            launches: if on_chip { 0.0 } else { 1.0 },
        }
    }

    /// Results that go through memory before they are summed: of rows grouped by the weight that
    /// they chose, when the sum runs over the choices.
    fn partial_sums(
        &self,
        egraph: &Egraph,
        form: &Form,
        operands: &[Id],
        extents: &BTreeMap<Label, Dim>,
    ) -> f64 {
        let mut most: f64 = 0.0;
        for (k, id) in operands.iter().enumerate() {
            let facts = &egraph[*id].data;
            if !facts.weight_like || facts.constant {
                continue;
            }
            for node in &egraph[*id].nodes {
                let Term::Apply("gather", ids) = node else { continue };
                let gather = form_of(egraph, ids[0]);
                let shared = |l: &Label| gather.operands[0].contains(l);
                for (axis, inner) in gather.result.iter().enumerate() {
                    let label = form.operands[k][axis];
                    let other = form.operands[1 - k].contains(&label);
                    if !shared(inner) && other && !form.result.contains(&label) {
                        most = most.max(self.value(&extents[&label]));
                    }
                }
            }
        }
        most
    }

    /// Nanoseconds of some work.
    pub fn time_ns(&self, work: &Work) -> f64 {
        let (arithmetic, memory) = self.both_ns(work);
        arithmetic.max(memory) + work.launches * self.device.launch_ns
    }

    /// Nanoseconds of arithmetic, and of moving bytes.
    fn both_ns(&self, work: &Work) -> (f64, f64) {
        let arithmetic = work.flops / self.device.bf16_flops_per_s
            + work.slow_flops / self.device.f32_flops_per_s;
        (arithmetic * 1e9, work.bytes / self.device.read_bytes_per_s * 1e9)
    }

    /// What the nanoseconds of a kernel's work go to.
    pub fn spent(&self, work: &Work) -> Spent {
        let (arithmetic, memory) = self.both_ns(work);
        let launches = work.launches * self.device.launch_ns;
        if arithmetic >= memory {
            return Spent { arithmetic, launches, ..Spent::default() };
        }
        let part = |bytes: f64| bytes / self.device.read_bytes_per_s * 1e9;
        let (weights, context) = (part(work.weight_bytes), part(work.context_bytes));
        Spent { arithmetic: 0.0, weights, context, values: memory - weights - context, launches }
    }

    /// Nanoseconds that decide: time, the price of what is kept, and what must not be.
    pub fn price_ns(&self, egraph: &Egraph, class: Id, node: &Term) -> f64 {
        let facts = &egraph[class].data;
        if facts.constant {
            return folding_ns(egraph, facts, node);
        }
        let mut price = self.time_ns(&self.work(egraph, class, node)) + TIE_NS;
        if self.is_of_context(egraph, class) && !is_context_op(egraph, node) {
            price += FORBIDDEN_NS;
        }
        if node.op() == Some("history") {
            let kept = self.kept.as_ref().is_none_or(|kept| kept.contains(&class));
            price += if kept { 0.0 } else { FORBIDDEN_NS };
            price += self.history_ns_per_byte * self.stored(egraph, facts);
        }
        price + self.copies_ns(egraph, node)
    }

    /// Whether a value has rows of the context, and none of the step.
    fn is_of_context(&self, egraph: &Egraph, class: Id) -> bool {
        let facts = &egraph[class].data;
        let stepped = facts.shape.iter().filter(|dim| egraph.analysis.is_step(dim)).count();
        let context = facts.context.iter().filter(|context| **context).count();
        context > 0 && stepped == context && facts.class == Class::Float
    }

    /// The price of constants that only this e-node would have packed.
    fn copies_ns(&self, egraph: &Egraph, node: &Term) -> f64 {
        let (Some(packed), Some((_, operands))) = (&self.packed, node.parts()) else { return 0.0 };
        if matches!(node.op(), Some("gather" | RETURN)) {
            return 0.0;
        }
        let constants = operands.iter().map(|id| self.source_of(egraph, *id));
        let new = constants.filter(|id| egraph[*id].data.constant && !packed.contains(id));
        let bytes: f64 = new.map(|id| self.stored(egraph, &egraph[id].data)).sum();
        self.copy_ns_per_byte * bytes
    }

    /// The constant that rows are chosen from, or the value itself.
    pub fn source_of(&self, egraph: &Egraph, class: Id) -> Id {
        let class = egraph.find(class);
        let gathered = egraph[class].nodes.iter().find_map(|node| match node {
            Term::Apply("gather", ids) if egraph[ids[1]].data.constant => Some(egraph.find(ids[1])),
            _ => None,
        });
        gathered.unwrap_or(class)
    }
}

/// Whether an op may make rows of the context anew at each step: what is kept, parts of it, and
/// products of it with constants. Axes are split and merged before rows are kept: who reads them
/// where they lie takes them as they are.
fn is_context_op(egraph: &Egraph, node: &Term) -> bool {
    let Some((form, operands)) = node.parts() else { return true };
    let form = form_of(egraph, form);
    match node.op() {
        Some("history" | "slice" | "gather" | "const" | RETURN) => true,
        Some("contract") => {
            let sums = form.all_labels().len() > form.result.len();
            let facts = |id: &Id| &egraph[*id].data;
            sums || operands.iter().any(|id| facts(id).ones)
        }
        _ => false,
    }
}

/// Constants are made when compiling; of equal ones that which is stored smallest is taken.
fn folding_ns(egraph: &Egraph, facts: &Facts, node: &Term) -> f64 {
    let Some((_, operands)) = node.parts() else { return 0.0 };
    let small = operands.iter().all(|id| {
        let operand = &egraph[*id].data;
        !operand.weight_like || encoded_bytes(operand.encoding) <= encoded_bytes(facts.encoding)
    });
    let views =
        matches!(node.op(), Some("split" | "merge" | "slice" | "concat" | "const" | "iota"));
    TIE_NS * if views && small { 1e-2 } else { 1.0 }
}

/// Bytes of an element of an encoding, scales included.
pub fn encoded_bytes(encoding: Encoding) -> f64 {
    let scale = encoding.scale.map_or(0.0, |scale| {
        let block = f64::from(scale.rows) * f64::from(scale.cols);
        f64::from(scale.dtype.bits()) / 8.0 / block
    });
    f64::from(encoding.code.bits()) / 8.0 + scale
}
