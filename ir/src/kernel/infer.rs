//! Types of operations' results: one rule for each operation, used by builder, parser and verifier.

use super::error::KernelError;
use super::{Access, Base, Coord, Op, Param, ParamType, Start, TileType, Value, ValueId};
use crate::dtype::{Class, DType, Encoding};
use crate::expr::Expr;

/// Most elements of a tile.
pub const MAX_TILE_ELEMENTS: u64 = 1 << 26;

type Inferred = Result<TileType, KernelError>;

/// The values and parameters that operations speak of.
#[derive(Clone, Copy)]
pub struct Types<'a> {
    /// Parameters.
    pub params: &'a [Param],
    /// Values.
    pub values: &'a [Value],
}

impl<'a> Types<'a> {
    /// A value's type.
    pub fn of(&self, id: ValueId) -> Result<&'a TileType, KernelError> {
        let unknown = || KernelError::Unknown { name: format!("number {}", id.0) };
        self.values.get(id.0 as usize).map(|v| &v.ty).ok_or_else(unknown)
    }

    fn plain(&self, op: &'static str, id: ValueId) -> Result<(&'a [u32], DType), KernelError> {
        let ty = self.of(id)?;
        let expected = "a plain element type";
        require(ty.encoding.is_plain(), op, ty.encoding, expected)?;
        Ok((&ty.shape, ty.encoding.code))
    }

    /// A tile of `f32` or `i32`.
    fn number(&self, op: &'static str, id: ValueId) -> Result<(&'a [u32], DType), KernelError> {
        let (shape, dtype) = self.plain(op, id)?;
        let ok = matches!(dtype, DType::F32 | DType::I32);
        require(ok, op, dtype.into(), "f32 or i32")?;
        Ok((shape, dtype))
    }

    fn exactly(&self, op: &'static str, id: ValueId, d: DType) -> Result<&'a [u32], KernelError> {
        let ty = self.of(id)?;
        require(ty.encoding == d.into(), op, ty.encoding, d.name())?;
        Ok(&ty.shape)
    }

    /// Type of an operation's result. `declared` is part of the meaning of `splat`, `iota`,
    /// `cast`, `encode`, `slice`, `broadcast`, `place` and `alloc`; the others ignore it.
    pub fn infer(&self, op: &Op, declared: Option<&TileType>) -> Inferred {
        let declared = || declared.ok_or(KernelError::Undeclared { op: op.name() });
        let ty = match op {
            Op::Splat(_) | Op::Alloc => plain_result(op.name(), declared()?),
            Op::Iota { axis } => iota(*axis, declared()?),
            Op::Map { args, expr } => self.map(args, expr),
            Op::Dim(_) => Ok(TileType::scalar(DType::I32)),
            Op::Cast(a) => self.cast(*a, declared()?),
            Op::Encode(a) => self.encode(*a, declared()?),
            Op::Decode(a) => self.decode(*a),
            Op::Reduce { axis, arg, .. } => self.reduce(*axis, *arg),
            Op::Scan { axis, arg, .. } => self.scan(*axis, *arg),
            Op::Where { cond, a, b } => self.choose(*cond, *a, *b),
            Op::Mma { acc, a, b } => self.mma(*acc, *a, *b),
            Op::Transpose { .. }
            | Op::Split { .. }
            | Op::Merge { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Broadcast { .. } => self.reshaped(op, &declared),
            Op::TopK { arg, mask, k } => self.topk(*arg, *mask, *k),
            Op::Pick { arg, index } => self.pick(*arg, *index),
            Op::Place { arg, index } => self.place(*arg, *index, declared()?),
            Op::Lookup { arg, table } => self.lookup(*arg, table.len()),
            Op::Load { access, keep } => self.load(access, *keep),
        }?;
        sized(&ty)?;
        Ok(ty)
    }

    fn map(&self, args: &[ValueId], expr: &Expr) -> Inferred {
        let mut shape: &[u32] = &[];
        let mut classes = Vec::with_capacity(args.len());
        for arg in args {
            let (s, dtype) = self.plain("map", *arg)?;
            shape = longer("map", shape, s)?;
            classes.push(dtype.class());
        }
        if args.is_empty() {
            return Err(KernelError::Count { what: "operands", found: 0, expected: 1 });
        }
        let dtype = match expr.class(&classes).map_err(KernelError::Expr)? {
            Class::Float => DType::F32,
            Class::Int => DType::I32,
            Class::Bool => DType::Bool,
        };
        Ok(TileType::new(dtype, shape))
    }

    fn cast(&self, arg: ValueId, declared: &TileType) -> Inferred {
        let (shape, _) = self.plain("cast", arg)?;
        let ty = plain_result("cast", declared)?;
        Ok(TileType::new(ty.encoding.code, shape))
    }

    fn encode(&self, arg: ValueId, declared: &TileType) -> Inferred {
        let shape = self.exactly("encode", arg, DType::F32)?;
        let Some(scale) = declared.encoding.scale else {
            return Err(wrong("encode", declared.encoding, "a scaled encoding"));
        };
        require(
            scale.rows == 1 || shape.len() > 1,
            "encode",
            declared.encoding,
            "blocks of rows 1",
        )?;
        if shape.is_empty() {
            return Err(KernelError::Rank { op: "encode", found: 0, expected: 1 });
        }
        Ok(TileType { encoding: declared.encoding, shape: shape.to_vec() })
    }

    fn decode(&self, arg: ValueId) -> Inferred {
        let ty = self.of(arg)?;
        require(!ty.encoding.is_plain(), "decode", ty.encoding, "a scaled encoding")?;
        Ok(TileType::new(DType::F32, &ty.shape))
    }

    fn reduce(&self, axis: u32, arg: ValueId) -> Inferred {
        let (shape, dtype) = self.number("reduce", arg)?;
        let axis = within("reduce", axis, shape)?;
        Ok(TileType::new(dtype, &[&shape[..axis], &shape[axis + 1..]].concat()))
    }

    fn scan(&self, axis: u32, arg: ValueId) -> Inferred {
        let (shape, dtype) = self.number("scan", arg)?;
        within("scan", axis, shape)?;
        Ok(TileType::new(dtype, shape))
    }

    fn choose(&self, cond: ValueId, a: ValueId, b: ValueId) -> Inferred {
        let shape = self.exactly("where", cond, DType::Bool)?;
        let ((sa, dtype), (sb, other)) = (self.plain("where", a)?, self.plain("where", b)?);
        require(dtype == other, "where", other.into(), "two operands of one type")?;
        let shape = longer("where", longer("where", shape, sa)?, sb)?;
        Ok(TileType::new(dtype, shape))
    }

    fn mma(&self, acc: ValueId, a: ValueId, b: ValueId) -> Inferred {
        let (acc_shape, sum) = self.number("mma", acc)?;
        let (ta, tb) = (self.of(a)?, self.of(b)?);
        for shape in [acc_shape, &ta.shape, &tb.shape] {
            if shape.len() != 2 {
                return Err(KernelError::Rank { op: "mma", found: shape.len(), expected: 2 });
            }
        }
        let agree = |l: &[u32], r: &[u32], same: bool| match same {
            true => Ok(()),
            false => Err(shapes("mma", l, r)),
        };
        agree(&ta.shape, &tb.shape, ta.shape[1] == tb.shape[1])?;
        agree(acc_shape, &ta.shape, acc_shape[0] == ta.shape[0])?;
        agree(acc_shape, &tb.shape, acc_shape[1] == tb.shape[0])?;
        let class = |e: Encoding| e.decoded().class();
        let (expected, text) = match sum {
            DType::I32 => (Class::Int, "plain integers for an i32 sum"),
            _ => (Class::Float, "reals for an f32 sum"),
        };
        require(class(ta.encoding) == expected, "mma", ta.encoding, text)?;
        require(class(tb.encoding) == expected, "mma", tb.encoding, text)?;
        Ok(TileType::new(sum, acc_shape))
    }

    fn reshaped<'d>(
        &self,
        op: &Op,
        declared: &dyn Fn() -> Result<&'d TileType, KernelError>,
    ) -> Inferred {
        let of = |arg: &ValueId| self.plain(op.name(), *arg);
        let (shape, dtype) = match op {
            Op::Transpose { arg, order } => (transposed(of(arg)?.0, order)?, of(arg)?.1),
            Op::Split { arg, axis, extents } => (split(of(arg)?.0, *axis, extents)?, of(arg)?.1),
            Op::Merge { arg, axis, count } => (merged(of(arg)?.0, *axis, *count)?, of(arg)?.1),
            Op::Slice { arg, starts } => {
                (sliced(of(arg)?.0, starts, &declared()?.shape)?, of(arg)?.1)
            }
            Op::Broadcast { arg, axis } => {
                (repeated(of(arg)?.0, *axis, &declared()?.shape)?, of(arg)?.1)
            }
            Op::Concat { args, axis } => return self.concat(args, *axis),
            _ => return Err(KernelError::Undeclared { op: op.name() }),
        };
        Ok(TileType::new(dtype, &shape))
    }

    fn concat(&self, args: &[ValueId], axis: u32) -> Inferred {
        let [first, rest @ ..] = args else {
            return Err(KernelError::Count { what: "operands", found: 0, expected: 1 });
        };
        let (first, dtype) = self.plain("concat", *first)?;
        let axis = within("concat", axis, first)?;
        let mut shape = first.to_vec();
        for arg in rest {
            let (next, other) = self.plain("concat", *arg)?;
            require(other == dtype, "concat", other.into(), "operands of one type")?;
            let others = |s: &[u32]| [&s[..axis], &s[axis + 1..]].concat();
            if next.len() != first.len() || others(next) != others(first) {
                return Err(shapes("concat", first, next));
            }
            shape[axis] = shape[axis].saturating_add(next[axis]);
        }
        Ok(TileType::new(dtype, &shape))
    }

    fn topk(&self, arg: ValueId, mask: Option<ValueId>, k: u32) -> Inferred {
        let (shape, _) = self.number("topk", arg)?;
        if let Some(mask) = mask {
            let m = self.exactly("topk", mask, DType::Bool)?;
            if m != shape {
                return Err(shapes("topk", shape, m));
            }
        }
        match shape.split_last() {
            Some((last, rest)) if (1..=*last).contains(&k) => {
                Ok(TileType::new(DType::I32, &[rest, &[k]].concat()))
            }
            _ => Err(misfit("topk", k.into(), shape)),
        }
    }

    fn pick(&self, arg: ValueId, index: ValueId) -> Inferred {
        let (shape, dtype) = self.plain("pick", arg)?;
        let picked = self.exactly("pick", index, DType::I32)?;
        match (shape.split_last(), picked.split_last()) {
            (Some((_, a)), Some((_, b))) if a == b => Ok(TileType::new(dtype, picked)),
            _ => Err(shapes("pick", shape, picked)),
        }
    }

    fn place(&self, arg: ValueId, index: ValueId, declared: &TileType) -> Inferred {
        let (shape, dtype) = self.number("place", arg)?;
        let positions = self.exactly("place", index, DType::I32)?;
        if positions != shape {
            return Err(shapes("place", shape, positions));
        }
        match (shape.split_last(), declared.shape.split_last()) {
            (Some((_, a)), Some((_, b))) if a == b => Ok(TileType::new(dtype, &declared.shape)),
            _ => Err(shapes("place", shape, &declared.shape)),
        }
    }

    fn lookup(&self, arg: ValueId, table: usize) -> Inferred {
        let (shape, dtype) = self.plain("lookup", arg)?;
        require(dtype.class() == Class::Int, "lookup", dtype.into(), "integers")?;
        if !matches!(table, 16 | 256) {
            let what = "size of a table (16 or 256)";
            return Err(KernelError::Extent { what, found: table as u64 });
        }
        Ok(TileType::new(DType::F32, shape))
    }

    fn load(&self, access: &Access, keep: bool) -> Inferred {
        let (encoding, shape) = self.accessed(access)?;
        let gathered = self.gathered(access)?;
        let name = || self.base_name(access.base);
        if encoding.is_plain() || !keep {
            let dtype = if encoding.is_plain() { encoding.code } else { DType::F32 };
            return Ok(TileType::new(dtype, &shape));
        }
        // Blocks of scales run along the last two axes, so the tile must have these.
        let scale = encoding.scale.map_or(1, |s| s.rows);
        let kept = |c: Option<&Coord>| c.is_some_and(|c| c.extent.is_some());
        let mut coords = access.coords.iter().rev();
        let (last, second) = (coords.next(), coords.next());
        if !kept(last) || (scale > 1 && !kept(second)) {
            let found = shape.len();
            return Err(KernelError::Rank { op: "load keep", found, expected: found + 1 });
        }
        if gathered == Some(access.coords.len() - 1) {
            return Err(KernelError::Gather { base: name()?, found: 1 });
        }
        Ok(TileType { encoding, shape })
    }

    /// Whether a value may be stored by an access.
    pub fn check_store(&self, value: ValueId, access: &Access) -> Result<(), KernelError> {
        let (encoding, shape) = self.accessed(access)?;
        let expected = TileType { encoding, shape };
        let found = self.of(value)?;
        if *found != expected {
            return Err(KernelError::Stored { found: found.clone(), expected });
        }
        if !encoding.is_plain() && self.gathered(access)? == Some(access.coords.len() - 1) {
            return Err(KernelError::Gather { base: self.base_name(access.base)?, found: 1 });
        }
        Ok(())
    }

    /// Encoding of what is accessed and extents of the tile.
    pub fn accessed(&self, access: &Access) -> Result<(Encoding, Vec<u32>), KernelError> {
        let (encoding, rank) = match access.base {
            Base::Param(p) => match &self.param(access.base, p.0)?.ty {
                ParamType::Tensor { encoding, dims, .. } => (*encoding, dims.len()),
                ParamType::List { .. } => (DType::I32.into(), 2),
            },
            Base::Scratch(v) => (self.of(v)?.encoding, self.of(v)?.shape.len()),
        };
        if rank != access.coords.len() {
            let (base, found) = (self.base_name(access.base)?, access.coords.len());
            return Err(KernelError::Coords { base, found, expected: rank });
        }
        self.gathered(access)?;
        let ty =
            TileType { encoding, shape: access.coords.iter().filter_map(|c| c.extent).collect() };
        sized(&ty)?;
        Ok((encoding, ty.shape))
    }

    /// Which coordinate is a tile of positions, if any.
    fn gathered(&self, access: &Access) -> Result<Option<usize>, KernelError> {
        let mut gathers = Vec::new();
        for (axis, coord) in access.coords.iter().enumerate() {
            let Start::Value(v) = coord.start else { continue };
            let shape = self.exactly("an access", v, DType::I32)?;
            match (shape, coord.extent) {
                ([], _) => {}
                ([n], Some(extent)) if *n == extent => gathers.push(axis),
                ([_], extent) => {
                    return Err(shapes("gather", shape, &extent.map_or(vec![], |e| vec![e])));
                }
                _ => {
                    let (op, found) = ("an access", shape.len());
                    return Err(KernelError::Rank { op, found, expected: 1 });
                }
            }
        }
        match gathers[..] {
            [] => Ok(None),
            [axis] => Ok(Some(axis)),
            _ => {
                let (base, found) = (self.base_name(access.base)?, gathers.len());
                Err(KernelError::Gather { base, found })
            }
        }
    }

    fn param(&self, base: Base, at: u32) -> Result<&'a Param, KernelError> {
        let unknown = || KernelError::Unknown { name: format!("{base:?}") };
        self.params.get(at as usize).ok_or_else(unknown)
    }

    /// Name of what is accessed.
    pub fn base_name(&self, base: Base) -> Result<crate::dim::Name, KernelError> {
        match base {
            Base::Param(p) => Ok(self.param(base, p.0)?.name.clone()),
            Base::Scratch(v) => self.of(v).map(|_| self.values[v.0 as usize].name.clone()),
        }
    }
}

fn wrong(op: &'static str, found: Encoding, expected: &'static str) -> KernelError {
    KernelError::Encoding { op, found, expected }
}

fn require(
    holds: bool,
    op: &'static str,
    found: Encoding,
    expected: &'static str,
) -> Result<(), KernelError> {
    if holds { Ok(()) } else { Err(wrong(op, found, expected)) }
}

fn shapes(op: &'static str, left: &[u32], right: &[u32]) -> KernelError {
    KernelError::Shapes { op, left: left.to_vec(), right: right.to_vec() }
}

fn misfit(op: &'static str, found: u64, shape: &[u32]) -> KernelError {
    KernelError::Axis { op, found, shape: shape.to_vec() }
}

fn within(op: &'static str, axis: u32, shape: &[u32]) -> Result<usize, KernelError> {
    if (axis as usize) < shape.len() {
        Ok(axis as usize)
    } else {
        Err(misfit(op, axis.into(), shape))
    }
}

/// The longer of two shapes of which one begins with the other.
fn longer<'s>(op: &'static str, a: &'s [u32], b: &'s [u32]) -> Result<&'s [u32], KernelError> {
    match (a.starts_with(b), b.starts_with(a)) {
        (true, _) => Ok(a),
        (_, true) => Ok(b),
        _ => Err(shapes(op, a, b)),
    }
}

fn sized(ty: &TileType) -> Result<(), KernelError> {
    let product = ty.shape.iter().try_fold(1u64, |p, e| p.checked_mul(u64::from(*e)));
    match product {
        Some(n) if (1..=MAX_TILE_ELEMENTS).contains(&n) => Ok(()),
        n => Err(KernelError::Extent { what: "elements of a tile", found: n.unwrap_or(u64::MAX) }),
    }
}

fn plain_result(op: &'static str, declared: &TileType) -> Inferred {
    require(declared.encoding.is_plain(), op, declared.encoding, "a plain element type")?;
    Ok(declared.clone())
}

fn iota(axis: u32, declared: &TileType) -> Inferred {
    require(declared.encoding == DType::I32.into(), "iota", declared.encoding, "i32")?;
    within("iota", axis, &declared.shape)?;
    Ok(declared.clone())
}

fn transposed(shape: &[u32], order: &[u32]) -> Result<Vec<u32>, KernelError> {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len() as u32) {
        return Err(shapes("transpose", shape, order));
    }
    Ok(order.iter().map(|axis| shape[*axis as usize]).collect())
}

fn split(shape: &[u32], axis: u32, extents: &[u32]) -> Result<Vec<u32>, KernelError> {
    let axis = within("split", axis, shape)?;
    let product = extents.iter().try_fold(1u32, |p, e| p.checked_mul(*e));
    if product != Some(shape[axis]) {
        return Err(shapes("split", shape, extents));
    }
    Ok([&shape[..axis], extents, &shape[axis + 1..]].concat())
}

fn merged(shape: &[u32], axis: u32, count: u32) -> Result<Vec<u32>, KernelError> {
    let axis = within("merge", axis, shape)?;
    let end = axis.saturating_add(count as usize);
    if count == 0 || end > shape.len() {
        return Err(misfit("merge", count.into(), shape));
    }
    let product = shape[axis..end].iter().try_fold(1u32, |p, e| p.checked_mul(*e));
    let extent = product.ok_or_else(|| misfit("merge", count.into(), shape))?;
    Ok([&shape[..axis], &[extent], &shape[end..]].concat())
}

fn sliced(shape: &[u32], starts: &[u32], extents: &[u32]) -> Result<Vec<u32>, KernelError> {
    let fits = starts.len() == shape.len()
        && extents.len() == shape.len()
        && (starts.iter().zip(extents).zip(shape))
            .all(|((s, e), whole)| s.checked_add(*e).is_some_and(|end| end <= *whole));
    if fits { Ok(extents.to_vec()) } else { Err(shapes("slice", shape, extents)) }
}

fn repeated(shape: &[u32], axis: u32, result: &[u32]) -> Result<Vec<u32>, KernelError> {
    let axis = axis as usize;
    let fits = axis < result.len() && [&result[..axis], &result[axis + 1..]].concat() == shape;
    if fits { Ok(result.to_vec()) } else { Err(shapes("broadcast", shape, result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_nothing_tells_must_be_declared() {
        let types = Types { params: &[], values: &[] };
        let error = types.infer(&Op::Alloc, None).expect_err("memory of no type");
        assert_eq!(error.code(), "E0144");
        let declared = TileType::new(DType::F32, &[4]);
        assert_eq!(types.infer(&Op::Alloc, Some(&declared)), Ok(declared.clone()));
    }
}
