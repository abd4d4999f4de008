//! Which products take activations as integer codes: those with weights that are rounded to such,
//! of rows that consist of whole blocks.

use crate::lower::claims::experts::{Form, Table};
use crate::lower::claims::{Claims, Form as ClaimForm};
use crate::lower::constant;
use crate::lower::partition::{GroupKind, kind_of, weight_operand};
use crate::options::Options;
use ir::dim::Name;
use ir::dtype::{DType, Encoding, Scale};
use ir::graph::program::{Arg, Call};
use ir::graph::{Graph, NodeId, ValueId};

/// Elements of a row of activations that share a scale.
const BLOCK: u32 = 32;

/// Activations as codes, with the sum of each block's.
pub const CODES: Encoding = Encoding {
    code: DType::I8,
    scale: Some(Scale { dtype: DType::F32, rows: 1, cols: BLOCK, sum: true }),
};

/// Whether elements are stored as integers and scales.
pub fn is_integer(encoding: Encoding) -> bool {
    matches!(encoding.code, DType::I8 | DType::I4) && encoding.scale.is_some()
}

/// A block, and what decides how its weights are stored.
pub struct Rounded<'a> {
    /// The block.
    pub graph: &'a Graph,
    /// Its calls, which bind weights.
    pub calls: &'a [&'a Call],
    /// The block's claims.
    pub claims: &'a Claims,
    /// The formats that are asked for.
    pub options: &'a Options,
}

impl Rounded<'_> {
    /// Whether the products of a node, or of the claim that it is the root of, can be of codes.
    pub fn multiplies_codes(&self, id: NodeId) -> bool {
        match (kind_of(self.graph, self.claims, id), self.claims.covering(id).map(|c| &c.form)) {
            (GroupKind::Contraction, _) => self.contraction(id),
            (_, Some(ClaimForm::Experts(form))) => self.experts(form),
            _ => false,
        }
    }

    fn contraction(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let Some(at) = weight_operand(self.graph, node) else { return false };
        let (weight, x) = (node.operands[at], node.operands[1 - at]);
        let result = self.graph.ty(node.results[0]);
        let indices = self.graph.ty(weight).indices.iter();
        let summed: Vec<Name> = indices.filter(|i| !result.has(i)).cloned().collect();
        self.is_whole(x, &summed) && self.is_rounded(weight, &summed)
    }

    fn experts(&self, form: &Form) -> bool {
        let rounded = |table: &Table, summed: &[Name]| self.is_rounded(table.of.value, summed);
        let down = |table: &Table| {
            self.extent(&form.hidden).is_some_and(|e| e % i64::from(BLOCK) == 0)
                && rounded(table, &form.hidden)
        };
        self.is_whole(form.x, &form.width)
            && form.branches().all(|table| rounded(table, &form.width))
            && form.down.as_ref().is_none_or(|(table, _)| down(table))
    }

    /// Whether blocks of a value's rows are blocks of what is summed.
    fn is_whole(&self, value: ValueId, summed: &[Name]) -> bool {
        let last = self.graph.ty(value).indices.last().filter(|i| summed.contains(i));
        let extent = last.and_then(|i| self.extent(std::slice::from_ref(i)));
        extent.is_some_and(|e| e % i64::from(BLOCK) == 0)
    }

    /// Whether a constant's rows over these indices are rounded to integers in every call.
    fn is_rounded(&self, constant: ValueId, summed: &[Name]) -> bool {
        let weights = constant::weights(self.graph, constant);
        let bound = self.calls.iter().flat_map(|call| self.graph.params.iter().zip(&call.args));
        let names = bound.filter_map(|(param, arg)| match arg {
            Arg::Weight(name) if weights.contains(param) => Some(name),
            _ => None,
        });
        let format = self.options.weights.of_weights(names);
        let depth = self.extent(summed);
        format.zip(depth).and_then(|(f, depth)| f.encoding(depth)).is_some_and(is_integer)
    }

    fn extent(&self, indices: &[Name]) -> Option<i64> {
        let of = |i: &Name| self.graph.extent(i).bound_value(&self.graph.symbols);
        indices.iter().try_fold(1i64, |all, i| all.checked_mul(of(i)?))
    }
}
