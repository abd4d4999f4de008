//! What is kept over time: a history of a function of rows is that function of a history.

use super::pointwise::{self, Inner};
use crate::rewrite::law::{Law, Operand, Site};
use crate::rewrite::term::{Form, FormAttr, Label};
use check::Tag;
use egg::Id;
use ir::dim::Dim;

/// Laws of histories. They point inward, from what is used to what it is made of.
pub fn laws() -> Vec<Law> {
    let law = Law::new("history-inward", Tag::Exact, "history(f(x)) = f(history(x)), row by row");
    let cases = pointwise::by_rows()
        .map(|(op, count)| (format!("(history ?h {})", pointwise::pattern(op, count)), op, count));
    vec![cases.fold(law, |law, (pattern, op, count)| {
        law.case(pattern, move |site| inward(site, op, count))
    })]
}

fn inward(site: &mut Site, op: &'static str, count: usize) -> Vec<Id> {
    let history = site.form("?h");
    let [row, kept] = [history.label(0), history.label(1)];
    let extent = history.extents[&kept].clone();
    let mut inner = Inner::at(site, count, &history.operands[0]);
    if inner.names(row) || inner.new_labels(&history.operands[0]).contains(&row) {
        return vec![];
    }
    let mut operands = vec![];
    for x in inner.operands.clone() {
        let facts = site.facts(x.id);
        match (x.has(row), facts.constant || facts.ones) {
            (true, _) => operands.push(history_of(site, &x, row, (kept, extent.clone()))),
            (false, true) => operands.push(x),
            // What has no rows but changes from step to step.
            (false, false) => return vec![],
        }
    }
    vec![inner.rebuilt(site, op, &operands, &history.result)]
}

/// Ones along the rows are ones along what is kept; all else is kept.
fn history_of(site: &mut Site, x: &Operand, row: Label, (kept, extent): (Label, Dim)) -> Operand {
    let axes: Vec<Label> = x.axes.iter().map(|l| if *l == row { kept } else { *l }).collect();
    if site.facts(x.id).ones {
        let shape = site.facts(x.id).shape.clone();
        let of = |(l, d): (&Label, &Dim)| (*l, if *l == kept { extent.clone() } else { d.clone() });
        let extents: Vec<(Label, Dim)> = axes.iter().zip(&shape).map(of).collect();
        return site.ones(&extents);
    }
    let attrs = [FormAttr::Label(row), FormAttr::Label(kept)];
    let form = Form::new(&[&x.axes], &axes).with(attrs).extent(kept, extent);
    Operand { id: site.add("history", form, &[x.id]), axes }
}
