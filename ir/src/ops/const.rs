//! `const`: numbers in the text.

use crate::attr::Key;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const VALUES: Key<Vec<f64>> = Key::new(0, "values");

const SCHEMA: Schema = Schema {
    name: "const",
    summary: "one number everywhere, or one for each element in row-major order",
    operands: &[],
    mask: false,
    attrs: &[VALUES.spec()],
    results: 1,
};

/// `const {values = [1.0]} : f32[s, k]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let ty = node.declared()?.clone();
        let values = node.get(VALUES);
        let elements = node.product(&ty.indices).bind(&node.graph.symbols).as_constant();
        if values.len() != 1 && elements != Some(values.len() as i64) {
            let expected = "one number, or one for each element of bound extents";
            return Err(node.wrong_attr(VALUES, format!("{} numbers", values.len()), expected));
        }
        let dtype = ty.encoding.code;
        if !ty.encoding.is_plain() || ![DType::F32, DType::I32, DType::Bool].contains(&dtype) {
            let inferred = Type { encoding: DType::F32.into(), indices: ty.indices.clone() };
            return Err(GraphError::ResultType { declared: ty, inferred });
        }
        let fits = |v: &f64| match dtype.class() {
            Class::Float => true,
            Class::Int => v.fract() == 0.0 && *v >= i32::MIN as f64 && *v <= i32::MAX as f64,
            Class::Bool => *v == 0.0 || *v == 1.0,
        };
        match values.iter().find(|v| !fits(v)) {
            None => Ok(vec![ty]),
            Some(v) => Err(node.wrong_attr(VALUES, v, "numbers of the result's dtype")),
        }
    }
}

impl GraphBuilder {
    /// The same real number everywhere.
    pub fn splat<I: AsRef<str>>(&mut self, value: f64, indices: &[I]) -> Result<ValueId, IrError> {
        self.constant(DType::F32, &[value], indices)
    }

    /// Numbers in row-major order, or one for all.
    pub fn constant<I: AsRef<str>>(
        &mut self,
        dtype: DType,
        values: &[f64],
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let ty = Type::new(dtype, indices);
        self.node1(OpRef(&Op), &[], None, attrs([values.to_vec().into()]), Some(ty))
    }
}
