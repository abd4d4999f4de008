//! `reduce`: a fold over every index absent from the result.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, walk};
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::kernel;
use crate::kernel::Fold;
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs};
use crate::tensor::{Data, Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const OP: Key<Name> = Key::new(0, "op");

const SCHEMA: Schema = Schema {
    name: "reduce",
    summary: "sum, max or min of numbers, any or all of truth values; 0 or false of none",
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

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, operands: &[Range]) -> Result<Range, Beyond> {
        // Of none it is 0.
        let one = || node.ranges(operands).or(&Range::number(0), &node.graph.symbols);
        Ok(if **node.get(OP) == *"sum" { Range::any() } else { one() })
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        node.elements(node.operand(0))
    }

    fn tolerance(&self, node: &NodeView, results: &[Type]) -> Tolerance {
        match (&**node.get(OP), results[0].class()) {
            ("sum", Class::Float) => {
                node.sum_tolerance(node.operand(0).indices.iter().filter(|i| !results[0].has(i)))
            }
            _ => Tolerance::Exact,
        }
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        let summed = operands[0].indices.iter().filter(|i| !indices.contains(i)).cloned();
        let axes: Vec<Name> = indices.iter().cloned().chain(summed).collect();
        let x = tiles.permuted(&operands[0], &axes);
        let x = tiles.widened(x);
        let mask = mask.map(|m| tiles.aligned(node.graph, m, &axes)).transpose()?;
        let value = match &**node.get(OP) {
            "sum" => {
                let kept = masked(tiles, x, mask, 0.0);
                folded(tiles, Fold::Add, kept, indices.len())
            }
            "max" => extreme(tiles, Fold::Max, x, mask, indices.len()),
            "min" => extreme(tiles, Fold::Min, x, mask, indices.len()),
            truth => {
                let number = tiles.kernel.map("int(a)", &[("a", x)]);
                let (fold, absent) =
                    if truth == "all" { (Fold::Min, 1.0) } else { (Fold::Max, 0.0) };
                let kept = masked(tiles, number, mask, absent);
                let value = folded(tiles, fold, kept, indices.len());
                let holds = tiles.kernel.map("a != 0", &[("a", value)]);
                match mask.filter(|_| truth == "all") {
                    Some(mask) => {
                        let any = any(tiles, mask, indices.len());
                        tiles.kernel.map("a & b", &[("a", holds), ("b", any)])
                    }
                    None => holds,
                }
            }
        };
        Ok(vec![Tile { value, indices }])
    }
}

/// Folds every axis from `keep` on.
fn folded(tiles: &mut Tiles, fold: Fold, x: kernel::ValueId, keep: usize) -> kernel::ValueId {
    let rank = tiles.kernel.ty(x).shape.len();
    (keep..rank).rev().fold(x, |x, axis| tiles.kernel.reduce(fold, axis as u32, x))
}

fn masked(
    tiles: &mut Tiles,
    x: kernel::ValueId,
    mask: Option<kernel::ValueId>,
    absent: f64,
) -> kernel::ValueId {
    let Some(mask) = mask else { return x };
    let dtype = tiles.kernel.ty(x).encoding.code;
    let absent = tiles.splat(absent, x, dtype);
    tiles.kernel.choose(mask, x, absent)
}

fn any(tiles: &mut Tiles, mask: kernel::ValueId, keep: usize) -> kernel::ValueId {
    let number = tiles.kernel.map("int(a)", &[("a", mask)]);
    let count = folded(tiles, Fold::Max, number, keep);
    tiles.kernel.map("a != 0", &[("a", count)])
}

/// Greatest or least; 0 where the mask leaves nothing.
fn extreme(
    tiles: &mut Tiles,
    fold: Fold,
    x: kernel::ValueId,
    mask: Option<kernel::ValueId>,
    keep: usize,
) -> kernel::ValueId {
    let dtype = tiles.kernel.ty(x).encoding.code;
    let worst = match dtype.class() {
        Class::Int => f64::from(i32::MIN),
        _ => f64::from(f32::MIN),
    };
    let worst = match (fold, dtype.class()) {
        (Fold::Min, Class::Int) => f64::from(i32::MAX),
        (Fold::Min, _) => -worst,
        _ => worst,
    };
    let kept = masked(tiles, x, mask, worst);
    let value = folded(tiles, fold, kept, keep);
    let Some(mask) = mask else { return value };
    let left = any(tiles, mask, keep);
    let zero = tiles.splat(0.0, value, dtype);
    tiles.kernel.choose(left, value, zero)
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let own = &cx.node.operand(0).indices;
        let mask = cx.mask_over(own)?;
        let mut moves = vec![];
        let mut from = 0;
        walk(&cx.extents(own)?, &[cx.strides(cx.indices(), own)?], |at| {
            if mask.as_ref().is_none_or(|m| m[from]) {
                moves.push((from, at[0]));
            }
            from += 1;
            Ok(())
        })?;
        let n = elements(&cx.shape()?)?;
        let key = cx.key;
        cx.result(match (cx.operands[0].data(), &**cx.node.get(OP)) {
            (Data::Float(x), "max") => Data::Float(fold(n, &moves, x, |a, b| a.max(b, key))),
            (Data::Float(x), "min") => Data::Float(fold(n, &moves, x, |a, b| a.min(b, key))),
            (Data::Float(x), _) => Data::Float(fold(n, &moves, x, N::add)),
            (Data::Int(x), "max") => Data::Int(fold(n, &moves, x, i32::max)),
            (Data::Int(x), "min") => Data::Int(fold(n, &moves, x, i32::min)),
            (Data::Int(x), _) => Data::Int(fold(n, &moves, x, i32::wrapping_add)),
            (Data::Bool(x), "all") => Data::Bool(fold(n, &moves, x, |a, b| a & b)),
            (Data::Bool(x), _) => Data::Bool(fold(n, &moves, x, |a, b| a | b)),
        })
    }
}

/// Folds elements of `x` into `n` places, in order; the default where none arrives.
fn fold<T: Copy + Default>(
    n: usize,
    moves: &[(usize, usize)],
    x: &[T],
    f: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut folds: Vec<Option<T>> = vec![None; n];
    for (from, to) in moves {
        let x = x[*from];
        folds[*to] = Some(folds[*to].map_or(x, |sum| f(sum, x)));
    }
    folds.into_iter().map(Option::unwrap_or_default).collect()
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

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @masked_max(%x: f32[s, t], %m: bool[t]) -> f32[s]
  params s = 2, t = 3 {
  %0 = reduce %x where %m {op = max} : f32[s]
  return %0
}",
        inputs: &[&[-5.0, 9.0, -3.0, f64::NAN, 1.0, 2.0], &[1.0, 0.0, 1.0]],
        outputs: &[&[-3.0, f64::NAN]],
    },
    Sample {
        graph: "graph @nothing_left(%x: f32[s, t], %m: bool[s]) -> f32[s]
  params s = 2, t = 1 {
  %0 = reduce %x where %m {op = min} : f32[s]
  return %0
}",
        inputs: &[&[4.0, -4.0], &[0.0, 1.0]],
        outputs: &[&[0.0, -4.0]],
    },
    Sample {
        graph: "graph @sum(%x: i32[s, t]) -> i32[t]
  params s = 3, t = 2 {
  %0 = reduce %x {op = sum} : i32[t]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
        outputs: &[&[9.0, 12.0]],
    },
    Sample {
        graph: "graph @all(%x: bool[s, t]) -> bool[s]
  params s = 2, t = 2 {
  %0 = reduce %x {op = all} : bool[s]
  return %0
}",
        inputs: &[&[1.0, 1.0, 1.0, 0.0]],
        outputs: &[&[1.0, 0.0]],
    },
];
