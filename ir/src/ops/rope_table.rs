//! `rope_table`: rotations by position.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs};
use crate::tensor::{Data, Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const INTO: Key<Name> = Key::new(0, "into");
const SCALE: Key<f64> = Key::new(1, "scale");

const SCHEMA: Schema = Schema {
    name: "rope_table",
    summary: "scale * (cos, sin) of position times frequency, along `into` of extent 2",
    operands: &["pos", "freq"],
    mask: false,
    attrs: &[INTO.spec(), SCALE.spec()],
    results: 1,
};

/// `rope_table %pos, %freq {into = z, scale = 1} : f32[s, i, z]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Int)?;
        node.class(1, Class::Float)?;
        let into = node.get(INTO);
        node.equal(&node.extent(into), &Dim::constant(2))?;
        let (pos, freq) = (node.operand(0), node.operand(1));
        let indices = pos.indices.iter().chain(&freq.indices).chain([into]).cloned().collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        // Angle and function, and the scale.
        node.elements(&results[0]).times(&3.into())
    }

    fn tolerance(&self, _node: &NodeView, _results: &[Type]) -> Tolerance {
        Tolerance::Ulps(4.0)
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let [pos, freq] = operands else { return Err(undeclared(&SCHEMA)) };
        let axes = [pos.indices.as_slice(), &freq.indices].concat();
        let pos = tiles.aligned(node.graph, pos, &axes)?;
        let freq = tiles.aligned(node.graph, freq, &axes)?;
        let angle = tiles.kernel.map("float(p) * f", &[("p", pos), ("f", freq)]);
        let scale = tiles.splat(*node.get(SCALE), angle, DType::F32);
        let mut parts = vec![];
        for function in ["s * cos(a)", "s * sin(a)"] {
            let part = tiles.kernel.map(function, &[("s", scale), ("a", angle)]);
            parts.push(tiles.kernel.broadcast(part, axes.len() as u32, 1));
        }
        let value = tiles.kernel.concat(&parts, axes.len() as u32);
        let indices = [axes, vec![node.get(INTO).clone()]].concat();
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let scale = N::from_f64(f64::from(*cx.node.get(SCALE) as f32));
        let mut table = Vec::with_capacity(elements(&cx.shape()?)?);
        for pos in cx.operands[0].as_ints() {
            for freq in cx.operands[1].as_floats() {
                table.extend(N::rotation(*pos, *freq, cx.key).map(|v| v.mul(scale)));
            }
        }
        cx.result(Data::Float(table))
    }
}

impl GraphBuilder {
    /// `scale * (cos, sin)` of `pos * freq`, the pair along `into`.
    pub fn rope_table(
        &mut self,
        pos: ValueId,
        freq: ValueId,
        into: &str,
        scale: f64,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(into).into(), scale.into()]);
        self.node1(OpRef(&Op), &[pos, freq], None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[Sample {
    graph: "graph @turns(%pos: i32[s], %freq: f32[i]) -> f32[s, i, z]
  params i = 1, s = 3
  index z = 2 {
  %0 = rope_table %pos, %freq {into = z, scale = 2} : f32[s, i, z]
  return %0
}",
    inputs: &[&[0.0, 1.0, -2.0], &[0.5]],
    outputs: &[&[
        2.0,
        0.0,
        1.7551651237807455,
        0.958851077208406,
        1.0806046117362795,
        -1.682941969615793,
    ]],
}];
