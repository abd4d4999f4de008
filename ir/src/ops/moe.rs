//! `moe`: a weighted sum of chosen gated networks.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const EXPERTS: Key<Name> = Key::new(0, "experts");
const CHOSEN: Key<Name> = Key::new(1, "chosen");

const SCHEMA: Schema = Schema {
    name: "moe",
    summary: "sum over `chosen` of weight * w_down . swiglu(w_gate . x, w_up . x), the rows of \
              index naming one of `experts` each",
    operands: &["x", "index", "weight", "w_gate", "w_up", "w_down"],
    mask: false,
    attrs: &[EXPERTS.spec(), CHOSEN.spec()],
    results: 1,
};

/// `moe %x, %index, %weight, %w_gate, %w_up, %w_down {experts = e, chosen = k} : f32[s, D]`
///
/// Shapes: `x [s, D]`, `index` and `weight [s, k]`, `w_gate` and `w_up [e, f, D]`,
/// `w_down [e, D, f]` to `[s, D]`.
pub struct Op;

/// What each index is to the op.
struct Roles {
    /// Of x, index and the result.
    rows: Vec<Name>,
    /// Of the hidden layer.
    hidden: Vec<Name>,
    /// Of the result, after the rows.
    out: Vec<Name>,
}

fn roles(node: &NodeView) -> Result<Roles, GraphError> {
    let (experts, chosen) = (node.get(EXPERTS), node.get(CHOSEN));
    let [x, index, gate, down] = [0, 1, 3, 5].map(|i| node.operand(i));
    node.position(1, chosen)?;
    if node.operand(2).indices != index.indices {
        return Err(node.wrong_indices(2, format!("the indices of {index}")));
    }
    let rows: Vec<Name> = index.indices.iter().filter(|i| *i != chosen).cloned().collect();
    for row in &rows {
        node.position(0, row)?;
    }
    node.position(3, experts)?;
    node.position(5, experts)?;
    if node.operand(4).indices != gate.indices {
        return Err(node.wrong_indices(4, format!("the indices of {gate}")));
    }
    for summed in x.indices.iter().filter(|i| !rows.contains(i)) {
        node.position(3, summed)?;
    }
    let hidden: Vec<Name> =
        gate.indices.iter().filter(|i| *i != experts && !x.has(i)).cloned().collect();
    for index in &hidden {
        node.position(5, index)?;
    }
    let own = |i: &&Name| *i != experts && !hidden.contains(i);
    let out = down.indices.iter().filter(own).cloned().collect();
    Ok(Roles { rows, hidden, out })
}

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        for i in [0, 2, 3, 4, 5] {
            node.class(i, crate::dtype::Class::Float)?;
        }
        node.class(1, crate::dtype::Class::Int)?;
        let Roles { rows, out, .. } = roles(node)?;
        let indices = rows.into_iter().chain(out).collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// Weighted sum of the `chosen` of `experts`; operands are x, index, weight, w_gate, w_up and
    /// w_down.
    pub fn moe(
        &mut self,
        operands: [ValueId; 6],
        experts: &str,
        chosen: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(experts).into(), Name::from(chosen).into()]);
        self.node1(OpRef(&Op), &operands, None, attrs, None)
    }
}
