//! `iota`: the integers from a start.

use crate::attr::Key;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const START: Key<Dim> = Key::new(0, "start");

const SCHEMA: Schema = Schema {
    name: "iota",
    summary: "start, start + 1, .. along the one index of the result; start alone if it has none",
    operands: &[],
    mask: false,
    attrs: &[START.spec()],
    results: 1,
};

/// `iota {start = t - s} : i32[s]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let indices = node.declared()?.indices.clone();
        if indices.len() > 1 {
            let declared = node.declared()?.clone();
            let inferred = Type { encoding: DType::I32.into(), indices: indices[..1].to_vec() };
            return Err(GraphError::ResultType { declared, inferred });
        }
        Ok(vec![Type { encoding: DType::I32.into(), indices }])
    }
}

impl GraphBuilder {
    /// `start + position` along `index`, as i32: positions of new tokens with `start = t - s`.
    pub fn iota(&mut self, start: impl Into<Dim>, index: &str) -> Result<ValueId, IrError> {
        let ty = Type::new(DType::I32, &[index]);
        self.node1(OpRef(&Op), &[], None, attrs([start.into().into()]), Some(ty))
    }

    /// The value of an extent, as an i32 without indices.
    pub fn size(&mut self, extent: impl Into<Dim>) -> Result<ValueId, IrError> {
        let ty = Type::new::<&str>(DType::I32, &[]);
        self.node1(OpRef(&Op), &[], None, attrs([extent.into().into()]), Some(ty))
    }
}
