//! What an op is: one file in [`ops`](crate::ops), one line in its list.

use crate::attr::{Attr, AttrSpec, AttrValue, Attrs, Key};
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType, Encoding};
use crate::error::IrError;
use crate::graph::bounds::least;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::range::{Beyond, Range};
use crate::graph::{Graph, ParamKind, Type, ValueId};
use crate::number::{Field, Number};
use crate::tensor::Tensor;
use crate::tiles::{Tile, Tiles, Unlowered};
use std::fmt;

/// Names and attributes of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Name in text, equal to the file's.
    pub name: &'static str,
    /// One line for the table of ops.
    pub summary: &'static str,
    /// Names of the data operands; a last name ending in `..` stands for one or more.
    pub operands: &'static [&'static str],
    /// Whether a bool `where` operand may follow.
    pub mask: bool,
    /// Attributes, in order; each must be given.
    pub attrs: &'static [AttrSpec],
    /// Number of results.
    pub results: usize,
}

impl Schema {
    /// Whether the last operand name stands for one or more.
    pub fn is_variadic(&self) -> bool {
        self.operands.last().is_some_and(|o| o.ends_with(".."))
    }

    /// Name of the operand at a position.
    pub fn operand(&self, position: usize) -> &'static str {
        self.operands.get(position).or(self.operands.last()).copied().unwrap_or("")
    }

    fn takes(&self, count: usize) -> bool {
        if self.is_variadic() { count >= self.operands.len() } else { count == self.operands.len() }
    }
}

/// Work of one application: counts, no time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: Dim,
    /// Bytes read once each.
    pub bytes_read: Dim,
    /// Bytes written.
    pub bytes_written: Dim,
}

/// How far two evaluations in finite precision may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// To the bit.
    Exact,
    /// `|a - b| <= ulps * eps * (|a| + scale)`, eps that of the arithmetic.
    Ulps(f64),
    /// Of sums of this many products: `c * eps * sqrt(k)` relative to the norm of the result.
    Sum(f64),
}

/// Terms of a product of extents beyond which it is not written out.
pub const MAX_PRODUCTS: usize = 4096;

/// Whatever an op needs to know of a node: operand types, attributes, the result's indices where
/// the text or the builder states them.
pub struct NodeView<'a> {
    /// The op's own names.
    pub schema: &'static Schema,
    /// The graph, for extents.
    pub graph: &'a Graph,
    /// Types of the data operands.
    pub operands: &'a [Type],
    /// Type of the mask.
    pub mask: Option<&'a Type>,
    /// Attributes in schema order.
    pub attrs: &'a [Attr],
    /// Results as declared: part of the meaning of `const`, `iota`, `contract`, `map` and
    /// `reduce`, a check for the others.
    pub declared: Option<&'a [Type]>,
}

impl NodeView<'_> {
    /// Checks everything that holds for any op, applies the op's own rule, and returns the types
    /// of the results.
    ///
    /// Errors: E0103, E0104, E0106 to E0111, E0113, E0119, and whatever the op's rule reports.
    pub fn check(&self, op: OpRef) -> Result<Vec<Type>, GraphError> {
        let schema = self.schema;
        if !schema.takes(self.operands.len()) {
            let expected = schema.operands.join(", ");
            let found = self.operands.len();
            return Err(GraphError::OperandCount { op: schema.name, found, expected });
        }
        if self.mask.is_some() && !schema.mask {
            return Err(GraphError::UnexpectedMask(schema.name));
        }
        for (i, spec) in schema.attrs.iter().enumerate() {
            let missing = GraphError::MissingAttr { op: schema.name, key: spec.key };
            let found = self.attrs.get(i).ok_or(missing)?.kind();
            if found != spec.kind {
                let (op, key, expected) = (schema.name, spec.key, spec.kind);
                return Err(GraphError::AttrKind { op, key, found, expected });
            }
        }
        self.knows_symbols()?;
        let results = op.0.infer(self)?;
        results.iter().try_for_each(|ty| ty.check(self.graph))?;
        self.agrees_with_declared(&results)?;
        Ok(results)
    }

    fn knows_symbols(&self) -> Result<(), GraphError> {
        let mut unknown = None;
        for attr in self.attrs {
            let Attr::Dim(dim) = attr else { continue };
            dim.visit_symbols(&mut |name| {
                if !self.graph.symbols.contains_key(name) {
                    unknown = Some(GraphError::Unknown { what: "symbol", name: name.clone() });
                }
            });
        }
        unknown.map_or(Ok(()), Err)
    }

    fn agrees_with_declared(&self, results: &[Type]) -> Result<(), GraphError> {
        let Some(declared) = self.declared else { return Ok(()) };
        if declared.len() != results.len() {
            let (found, expected) = (declared.len(), results.len());
            return Err(GraphError::ResultCount { op: self.schema.name, found, expected });
        }
        match declared.iter().zip(results).find(|(d, r)| d != r) {
            None => Ok(()),
            Some((d, r)) => {
                Err(GraphError::ResultType { declared: d.clone(), inferred: r.clone() })
            }
        }
    }

    /// An attribute's value; its kind has been checked.
    pub fn get<T: AttrValue>(&self, key: Key<T>) -> &T {
        T::of(&self.attrs[key.at]).expect("attribute kinds are checked before an op is asked")
    }

    /// Type of a data operand; their number has been checked.
    pub fn operand(&self, position: usize) -> &Type {
        &self.operands[position]
    }

    /// Extent of an index.
    pub fn extent(&self, index: &str) -> Dim {
        self.graph.extent(index)
    }

    /// Product of the extents of some indices; beyond [`MAX_PRODUCTS`] terms, the greatest integer,
    /// which equals no extent.
    pub fn product<'n>(&self, indices: impl IntoIterator<Item = &'n Name>) -> Dim {
        let mut product = Dim::constant(1);
        for index in indices {
            let extent = self.extent(index);
            if product.terms().count() * extent.terms().count() > MAX_PRODUCTS {
                return Dim::constant(i64::MAX);
            }
            product = product.times(&extent);
        }
        product
    }

    /// Number of elements of a type.
    pub fn elements(&self, ty: &Type) -> Dim {
        self.product(&ty.indices)
    }

    /// Bytes of a value as it is stored, scales included; rows begin at a byte.
    pub fn bytes(&self, ty: &Type) -> Dim {
        let Encoding { code, scale } = ty.encoding;
        let (cols, rows) = match ty.indices.split_last() {
            Some((cols, rows)) => (self.extent(cols), rows),
            None => (Dim::constant(1), &[][..]),
        };
        let codes = cols.times(&i64::from(code.bits()).into()).ceil_div(8);
        let codes = codes.times(&self.product(rows));
        let Some(scale) = scale else { return codes };
        let (row, matrices) = match rows.split_last() {
            Some((row, matrices)) => (self.extent(row), matrices),
            None => (Dim::constant(1), &[][..]),
        };
        let blocks = cols.ceil_div(scale.cols.into()).times(&row.ceil_div(scale.rows.into()));
        let each = i64::from(scale.dtype.bits().div_ceil(8)) + if scale.sum { 4 } else { 0 };
        codes.plus(&blocks.times(&self.product(matrices)).times(&each.into()))
    }

    /// The greatest value of a dim under the symbols' bounds, for error bounds.
    pub fn greatest(&self, dim: &Dim) -> f64 {
        let of = |n: &str| self.graph.symbols.get(n).map(|s| s.value.unwrap_or(s.hi));
        dim.eval(&of).map_or(f64::INFINITY, |v| v as f64)
    }

    /// Tolerance of a sum over some indices, and of what follows it.
    pub fn sum_tolerance<'n>(&self, summed: impl IntoIterator<Item = &'n Name>) -> Tolerance {
        Tolerance::Sum(self.greatest(&self.product(summed)).max(1.0))
    }

    /// The one declared result.
    ///
    /// Errors: E0108 where none is stated.
    pub fn declared(&self) -> Result<&Type, GraphError> {
        let declared = self.declared.and_then(|d| d.first());
        declared.ok_or(GraphError::Undeclared(self.schema.name))
    }

    /// Demands that an operand is of a class.
    pub fn class(&self, position: usize, expected: Class) -> Result<(), GraphError> {
        let found = self.operand(position).class();
        if found == expected {
            return Ok(());
        }
        let (op, operand) = (self.schema.name, self.schema.operand(position));
        Err(GraphError::OperandClass { op, operand, found, expected })
    }

    /// Demands that all operands are real numbers.
    pub fn floats(&self) -> Result<(), GraphError> {
        (0..self.operands.len()).try_for_each(|i| self.class(i, Class::Float))
    }

    /// Demands that an operand has an index; returns where.
    pub fn position(&self, operand: usize, index: &str) -> Result<usize, GraphError> {
        let ty = self.operand(operand);
        ty.position(index).ok_or_else(|| GraphError::MissingIndex {
            op: self.schema.name,
            operand: self.schema.operand(operand),
            found: ty.clone(),
            index: index.into(),
        })
    }

    /// An error about an operand's indices.
    pub fn wrong_indices(&self, operand: usize, expected: impl Into<String>) -> GraphError {
        GraphError::OperandIndices {
            op: self.schema.name,
            operand: self.schema.operand(operand),
            found: self.operand(operand).clone(),
            expected: expected.into(),
        }
    }

    /// Demands that two extents are equal as expressions.
    pub fn equal(&self, left: &Dim, right: &Dim) -> Result<(), GraphError> {
        if left == right {
            return Ok(());
        }
        let op = self.schema.name;
        Err(GraphError::Extents { op, left: left.clone(), right: right.clone() })
    }

    /// Demands that `0 <= start` and `start + len <= extent` under the symbols' bounds.
    pub fn within(&self, start: &Dim, len: &Dim, extent: &Dim) -> Result<(), GraphError> {
        let end = start.plus(len);
        let symbols = &self.graph.symbols;
        let room = extent.minus(&end);
        if least(&room, symbols) >= 0 && least(start, symbols) >= 0 {
            return Ok(());
        }
        Err(GraphError::Range { op: self.schema.name, end, extent: extent.clone() })
    }

    /// What holds of the elements of all operands, and of zeros where a mask leaves some out.
    pub fn ranges(&self, operands: &[Range]) -> Range {
        let masked = self.mask.map(|_| Range::number(0));
        let all = operands.iter().cloned().chain(masked);
        all.reduce(|a, b| a.or(&b, &self.graph.symbols)).unwrap_or_else(Range::any)
    }

    /// Demands that rows lie within what they select from, whatever the inputs are.
    ///
    /// Errors: some may not.
    pub fn rows_within(&self, rows: &Range, index: &Name) -> Result<(), Beyond> {
        let expected = Range::rows(&self.extent(index).bind(&self.graph.symbols));
        match rows.is_within(&expected, &self.graph.symbols) {
            true => Ok(()),
            false => Err(Beyond { what: "a row", found: rows.clone(), expected }),
        }
    }

    /// Demands that the mask, if any, is bool and has no index beyond `allowed`.
    pub fn mask_within(&self, allowed: &[Name]) -> Result<(), GraphError> {
        let Some(mask) = self.mask else { return Ok(()) };
        if mask.encoding != DType::Bool.into() {
            return Err(GraphError::OperandClass {
                op: self.schema.name,
                operand: "where",
                found: mask.class(),
                expected: Class::Bool,
            });
        }
        match mask.indices.iter().all(|i| allowed.contains(i)) {
            true => Ok(()),
            false => Err(GraphError::OperandIndices {
                op: self.schema.name,
                operand: "where",
                found: mask.clone(),
                expected: format!("indices among [{}]", allowed.join(", ")),
            }),
        }
    }

    /// An error about an attribute's value.
    pub fn wrong_attr<T: AttrValue>(
        &self,
        key: Key<T>,
        found: impl fmt::Display,
        expected: &'static str,
    ) -> GraphError {
        let op = self.schema.name;
        GraphError::AttrValue { op, key: key.key, found: found.to_string(), expected }
    }
}

/// Reference to a listed op; compared by name.
#[derive(Clone, Copy)]
pub struct OpRef(pub &'static dyn OpDef);

impl OpRef {
    /// Name in text.
    pub fn name(self) -> &'static str {
        self.0.schema().name
    }
}

impl OpRef {
    /// Work of one application.
    pub fn cost(self, node: &NodeView, results: &[Type]) -> Cost {
        Cost {
            flops: self.0.flops(node, results),
            bytes_read: self.0.reads(node, results),
            bytes_written: results.iter().fold(Dim::default(), |n, ty| n.plus(&node.bytes(ty))),
        }
    }
}

impl PartialEq for OpRef {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for OpRef {}

impl fmt::Debug for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An op's meaning over one number type: its results from its operands.
pub type EvalFn<N> = fn(&Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError>;

/// An op's meaning over each number type, made from one generic function.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// As reference implementations compute it.
    pub f32: EvalFn<f32>,
    /// As near to the truth as is easy.
    pub f64: EvalFn<f64>,
    /// Up to equal algebra.
    pub field: EvalFn<Field>,
}

/// An op's meaning, generic over the number type.
pub trait Apply {
    /// Results from operands: plain loops.
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError>;
}

impl Meaning {
    /// The meaning of an op over every number type.
    pub const fn of<A: Apply>() -> Meaning {
        Meaning { f32: A::apply::<f32>, f64: A::apply::<f64>, field: A::apply::<Field> }
    }
}

/// A small telling case.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// A graph of this op alone, with every symbol bound.
    pub graph: &'static str,
    /// Elements of each parameter in row-major order; none for random ones.
    pub inputs: &'static [&'static [f64]],
    /// Elements of each output, computed by hand; none where only the definition is compared.
    pub outputs: &'static [&'static [f64]],
}

/// Everything about an op.
pub trait OpDef: Sync {
    /// Names and attributes.
    fn schema(&self) -> &'static Schema;

    /// The types of the results: the only statement of the op's shape and dtype rule. Operand
    /// count, attribute kinds and the declared types are checked by [`NodeView::check`].
    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError>;

    /// What it computes.
    fn meaning(&self) -> Meaning;

    /// Floating-point operations of one application; functions such as exp count as one.
    fn flops(&self, _node: &NodeView, _results: &[Type]) -> Dim {
        Dim::default()
    }

    /// Bytes read: every operand once, unless only a part of one is.
    fn reads(&self, node: &NodeView, _results: &[Type]) -> Dim {
        node.operands.iter().chain(node.mask).fold(Dim::default(), |n, ty| n.plus(&node.bytes(ty)))
    }

    /// How far two right evaluations may be apart.
    fn tolerance(&self, _node: &NodeView, _results: &[Type]) -> Tolerance {
        Tolerance::Exact
    }

    /// Which integers the results may hold, given those of the operands: any, unless the op says more.
    ///
    /// Errors: an operand that may lie where the op has no meaning.
    fn range(&self, _node: &NodeView, _operands: &[Range]) -> Result<Range, Beyond> {
        Ok(Range::any())
    }

    /// Small telling cases: extents of 1, odd ones, NaN, infinities and signed zeros where they
    /// matter.
    fn samples(&self) -> &'static [Sample];

    /// For a composite, its meaning as a graph of primitives, whose parameters are the operands
    /// and then the mask. `None` for a primitive.
    fn definition(&self, _node: &NodeView) -> Option<Result<Graph, IrError>> {
        None
    }

    /// Computes the results on tiles. A composite goes through its definition.
    ///
    /// Errors: a form of the node that has no tiles.
    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        tiles.lower_definition(node.schema, self.definition(node), operands, mask)
    }
}

/// Makes a composite's definition: a graph like the node's, whose parameters are the operands and
/// then the mask.
pub(crate) fn define(
    node: &NodeView,
    body: impl FnOnce(&mut GraphBuilder, &[ValueId], Option<ValueId>) -> Result<ValueId, IrError>,
) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::like(node.schema.name, node.graph);
    let named = |(i, ty): (usize, &Type)| (node.schema.operand(i), ty.clone());
    let operands: Vec<_> = node.operands.iter().enumerate().map(named).collect();
    let operands: Vec<ValueId> =
        operands.into_iter().map(|(name, ty)| b.param(name, ParamKind::Input, ty)).collect();
    let mask = node.mask.map(|ty| b.param("where", ParamKind::Input, ty.clone()));
    let result = body(&mut b, &operands, mask)?;
    b.output(result);
    b.finish().map_err(|mut errors| errors.swap_remove(0))
}

/// Attributes in the order of a schema.
pub fn attrs<const N: usize>(values: [Attr; N]) -> Attrs {
    Attrs(values.into())
}
