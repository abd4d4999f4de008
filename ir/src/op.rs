//! What an op is: one file in [`ops`](crate::ops), one line in its list.

use crate::attr::{Attr, AttrSpec, AttrValue, Attrs, Key};
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::bounds::least;
use crate::graph::error::GraphError;
use crate::graph::{Graph, Type};
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
    /// Of sums of this many products: `c * eps * sqrt(k)` relative to the norm.
    Sum(f64),
}

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
    /// Errors: E0103, E0106 to E0112, E0119, and whatever the op's rule reports.
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
        let results = op.0.infer(self)?;
        results.iter().try_for_each(|ty| ty.check(self.graph))?;
        self.agrees_with_declared(&results)?;
        Ok(results)
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

    /// Product of the extents of some indices.
    pub fn product<'n>(&self, indices: impl IntoIterator<Item = &'n Name>) -> Dim {
        indices.into_iter().fold(Dim::constant(1), |p, i| p.times(&self.extent(i)))
    }

    /// The one declared result.
    ///
    /// Errors: E0121 where none is stated.
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

/// Everything about an op.
pub trait OpDef: Sync {
    /// Names and attributes.
    fn schema(&self) -> &'static Schema;

    /// The types of the results: the only statement of the op's shape and dtype rule. Operand
    /// count, attribute kinds and the declared types are checked by [`NodeView::check`].
    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError>;

    /// For a composite, its meaning as a graph of primitives, whose parameters are the operands
    /// and then the mask. `None` for a primitive.
    fn definition(&self, _node: &NodeView) -> Option<Result<Graph, IrError>> {
        None
    }
}

/// Attributes in the order of a schema.
pub fn attrs<const N: usize>(values: [Attr; N]) -> Attrs {
    Attrs(values.into())
}
