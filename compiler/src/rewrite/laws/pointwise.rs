//! Ops that treat each row of an axis alone: what moves through them.

use crate::rewrite::law::{Onto, Operand, Site};
use crate::rewrite::term::{ADD, Form, FormAttr, Label, MUL};
use egg::Id;

/// Products and ops of single elements, with how many operands: none of a result's axes has a
/// meaning of its own.
pub const ELEMENTWISE: &[(&str, usize)] =
    &[("contract", 2), (ADD, 2), (MUL, 2), ("map", 1), ("map", 2), ("map", 3), ("swiglu", 2)];

/// Ops that treat rows of an axis alone, wherever none of their attributes names it.
pub fn by_rows() -> impl Iterator<Item = (&'static str, usize)> {
    const NAMING: &[(&str, usize)] =
        &[("rms_norm", 2), ("split", 1), ("merge", 1), ("slice", 1), ("concat", 2), ("concat", 3)];
    ELEMENTWISE.iter().chain(NAMING).copied()
}

/// Whether operands may change places.
pub fn commutes(op: &str) -> bool {
    ["contract", ADD, MUL].contains(&op)
}

/// An op whose operands may change places: it has them in the e-graph's order.
pub fn ordered(
    site: &mut Site,
    op: &'static str,
    operands: &[Operand],
    result: &[Label],
) -> Option<Id> {
    let (true, [x, y]) = (commutes(op), operands) else { return None };
    let (x, y) = site.in_order(x, y);
    let form = Form::new(&[&x.axes, &y.axes], result);
    Some(site.add(op, form, &[x.id, y.id]))
}

/// A pattern of an op with this many operands `?x0`, `?x1`, .. and the form `?r`.
pub fn pattern(op: &str, count: usize) -> String {
    let operands: String = (0..count).map(|i| format!(" ?x{i}")).collect();
    format!("({op} ?r{operands})")
}

/// An op as it stands inside another's operand.
pub struct Inner {
    /// Its form.
    pub form: std::sync::Arc<Form>,
    /// Its labels as the outer form has them.
    pub onto: Onto,
    /// Its operands.
    pub operands: Vec<Operand>,
}

impl Inner {
    /// The op that matches [`pattern`], whose result reads `axes` outside.
    pub fn at(site: &Site, count: usize, axes: &[Label]) -> Inner {
        let form = site.form("?r");
        let mut onto = Onto::new(&form.result, axes);
        let name = |i: usize| format!("?x{i}");
        let operands =
            (0..count).map(|i| onto.operand(&form.operands[i], site.id(&name(i)))).collect();
        Inner { form, onto, operands }
    }

    /// Whether an attribute names an axis.
    pub fn names(&mut self, label: Label) -> bool {
        let attrs = self.form.attrs.clone();
        attrs.iter().any(|attr| match attr {
            FormAttr::Label(l) => self.onto.label(*l) == label,
            FormAttr::Labels(ls) => ls.iter().any(|l| self.onto.label(*l) == label),
            FormAttr::Plain(_) => false,
        })
    }

    /// Labels of the result that no operand has.
    pub fn new_labels(&self, result: &[Label]) -> Vec<Label> {
        let old = |l: &Label| self.operands.iter().any(|o| o.has(*l));
        result.iter().copied().filter(|l| !old(l)).collect()
    }

    /// The op on other operands.
    pub fn rebuilt(
        &mut self,
        site: &mut Site,
        op: &'static str,
        operands: &[Operand],
        result: &[Label],
    ) -> Id {
        if let Some(id) = ordered(site, op, operands, result) {
            return id;
        }
        let axes: Vec<&[Label]> = operands.iter().map(|o| &o.axes[..]).collect();
        let mut form = Form::new(&axes, result);
        form.masked = self.form.masked;
        let onto = &mut self.onto;
        form.attrs = self.form.attrs.clone();
        for attr in &mut form.attrs {
            match attr {
                FormAttr::Label(l) => *l = onto.label(*l),
                FormAttr::Labels(ls) => ls.iter_mut().for_each(|l| *l = onto.label(*l)),
                FormAttr::Plain(_) => {}
            }
        }
        for (label, extent) in &self.form.extents {
            form.extents.insert(onto.label(*label), extent.clone());
        }
        let ids: Vec<Id> = operands.iter().map(|o| o.id).collect();
        site.add(op, form, &ids)
    }
}
