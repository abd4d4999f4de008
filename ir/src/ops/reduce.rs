//! `reduce`: a fold over every index absent from the result.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const OP: Key<Name> = Key::new(0, "op");

const SCHEMA: Schema = Schema {
    name: "reduce",
    summary: "sum, max or min of numbers, any or all of truth values; 0 or false where none is left",
    operands: &["x"],
    mask: true,
    attrs: &[OP.spec()],
    results: 1,
};

/// `reduce %x where %m {op = sum} : f32[s]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let op = node.get(OP);
        let dtype = match (&**op, x.class()) {
            ("sum" | "max" | "min", Class::Float) => DType::F32,
            ("sum" | "max" | "min", Class::Int) => DType::I32,
            ("any" | "all", Class::Bool) => DType::Bool,
            ("sum" | "max" | "min" | "any" | "all", found) => {
                let expected = if found == Class::Bool { Class::Float } else { Class::Bool };
                let (op, operand) = (SCHEMA.name, "x");
                return Err(GraphError::OperandClass { op, operand, found, expected });
            }
            _ => return Err(node.wrong_attr(OP, op, "sum, max, min, any or all")),
        };
        node.mask_within(&x.indices)?;
        let indices = node.declared()?.indices.clone();
        for index in &indices {
            node.position(0, index)?;
        }
        Ok(vec![Type { encoding: dtype.into(), indices }])
    }
}

impl GraphBuilder {
    /// Folds `x`, where `mask` holds, with `op` (`sum`, `max`, `min`, `any`, `all`) over every
    /// index that `indices` does not have.
    pub fn reduce<I: AsRef<str>>(
        &mut self,
        op: &str,
        x: ValueId,
        mask: Option<ValueId>,
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let ty = Type::new(super::map::dtype_of(self.ty(x).class()), indices);
        self.node1(OpRef(&Op), &[x], mask, attrs([Name::from(op).into()]), Some(ty))
    }
}
