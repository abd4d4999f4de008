//! What an op's meaning is given, and the loops that they share.

use super::Type;
use super::error::GraphError;
use crate::dim::{Dim, Name};
use crate::dtype::Class;
use crate::number::Number;
use crate::number::scalar::Scalar;
use crate::op::NodeView;
use crate::tensor::{Data, Tensor, elements};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Values of symbols.
pub type Bindings = BTreeMap<Name, i64>;

/// A node about to be evaluated.
pub struct Eval<'a, N> {
    /// Types and attributes; the declared results are those of the graph.
    pub node: NodeView<'a>,
    /// Values of the data operands.
    pub operands: &'a [&'a Tensor<N>],
    /// Value of the mask.
    pub mask: Option<&'a Tensor<N>>,
    /// Rows of earlier steps along the first axis, for `history`; `None` for none.
    pub past: Option<&'a Tensor<N>>,
    /// Types of the results.
    pub results: &'a [Type],
    /// Values of the graph's symbols.
    pub bindings: &'a Bindings,
    /// Chooses the field's hashes.
    pub key: u64,
}

/// The value of a dim.
///
/// Errors: E0129 where a symbol has none, or it overflows.
pub fn value_of(dim: &Dim, bindings: &Bindings) -> Result<i64, GraphError> {
    dim.eval(&|n| bindings.get(n).copied()).ok_or_else(|| GraphError::Unbound(dim.clone()))
}

impl<N: Number> Eval<'_, N> {
    /// The value of a dim.
    pub fn dim(&self, dim: &Dim) -> Result<i64, GraphError> {
        value_of(dim, self.bindings)
    }

    /// Extent of an index.
    pub fn extent(&self, index: &str) -> Result<usize, GraphError> {
        let extent = self.node.extent(index);
        usize::try_from(self.dim(&extent)?).map_err(|_| GraphError::Unbound(extent))
    }

    /// Extents of indices, in their order.
    pub fn extents(&self, indices: &[Name]) -> Result<Vec<usize>, GraphError> {
        indices.iter().map(|i| self.extent(i)).collect()
    }

    /// Indices of the first result.
    pub fn indices(&self) -> &[Name] {
        &self.results[0].indices
    }

    /// Extents of the first result.
    pub fn shape(&self) -> Result<Vec<usize>, GraphError> {
        self.extents(self.indices())
    }

    /// Elements of a row-major value with indices `of` from one to the next along each of `over`;
    /// 0 along those it lacks.
    pub fn strides(&self, of: &[Name], over: &[Name]) -> Result<Vec<usize>, GraphError> {
        let extents = self.extents(of)?;
        let stride = |index: &Name| match of.iter().position(|i| i == index) {
            Some(at) => extents[at + 1..].iter().product(),
            None => 0,
        };
        Ok(over.iter().map(stride).collect())
    }

    /// The real numbers of an operand with its indices in this order, which has each of them;
    /// others repeat it.
    pub fn arranged(&self, operand: usize, order: &[Name]) -> Result<Cow<'_, [N]>, GraphError> {
        let x = self.operands[operand].as_floats();
        let own = &self.node.operand(operand).indices;
        if own[..] == *order {
            return Ok(Cow::Borrowed(x));
        }
        Ok(Cow::Owned(spread(x, &self.extents(order)?, &self.strides(own, order)?)?))
    }

    /// Whether the mask holds, for each element over these indices; `None` without a mask.
    pub fn mask_over(&self, indices: &[Name]) -> Result<Option<Vec<bool>>, GraphError> {
        let (Some(mask), Some(ty)) = (self.mask, self.node.mask) else { return Ok(None) };
        let strides = self.strides(&ty.indices, indices)?;
        Ok(Some(spread(mask.as_bools(), &self.extents(indices)?, &strides)?))
    }

    /// The first result from real numbers in an order of indices that may not be its own.
    pub fn result_from(&self, order: &[Name], x: Vec<N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (indices, shape) = (self.indices(), self.shape()?);
        if order == indices {
            return Ok(vec![Tensor::floats(&shape, x)?]);
        }
        let arranged = spread(&x, &shape, &self.strides(order, indices)?)?;
        Ok(vec![Tensor::floats(&shape, arranged)?])
    }

    /// The first result, from data in its own order.
    pub fn result(&self, data: Data<N>) -> Result<Vec<Tensor<N>>, GraphError> {
        Ok(vec![Tensor::new(&self.shape()?, data)?])
    }
}

/// Visits the positions of several values over common extents, the last fastest. `strides[v][a]`
/// is how far value `v` goes on along axis `a`.
pub fn walk(
    extents: &[usize],
    strides: &[Vec<usize>],
    mut visit: impl FnMut(&[usize]) -> Result<(), GraphError>,
) -> Result<(), GraphError> {
    if extents.contains(&0) {
        return Ok(());
    }
    let mut counter = vec![0usize; extents.len()];
    let mut at = vec![0usize; strides.len()];
    loop {
        visit(&at)?;
        let mut axis = extents.len();
        loop {
            let Some(a) = axis.checked_sub(1) else { return Ok(()) };
            axis = a;
            counter[a] += 1;
            if counter[a] < extents[a] {
                at.iter_mut().zip(strides).for_each(|(p, s)| *p += s[a]);
                break;
            }
            counter[a] = 0;
            at.iter_mut().zip(strides).for_each(|(p, s)| *p -= s[a] * (extents[a] - 1));
        }
    }
}

/// The elements over these extents, the last axis fastest, of what goes on by `strides` along them.
pub fn spread<T: Copy>(
    x: &[T],
    extents: &[usize],
    strides: &[usize],
) -> Result<Vec<T>, GraphError> {
    let mut all = Vec::with_capacity(elements(extents)?);
    let (Some((last, extents)), Some((step, strides))) =
        (extents.split_last(), strides.split_last())
    else {
        return Ok(x[..1].to_vec());
    };
    walk(extents, &[strides.to_vec()], |at| {
        match step {
            1 => all.extend_from_slice(&x[at[0]..][..*last]),
            _ => all.extend((0..*last).map(|i| x[at[0] + i * step])),
        }
        Ok(())
    })?;
    Ok(all)
}

/// How many of the last axes lie together: elements along them follow each other.
pub fn together(extents: &[usize], strides: &[usize]) -> usize {
    let mut next = 1;
    let follows = |(extent, stride): &(&usize, &usize)| {
        let follows = **stride == next;
        next *= **extent;
        follows
    };
    extents.iter().zip(strides).rev().take_while(follows).count()
}

impl<N: Number> Tensor<N> {
    /// The element at a row-major position.
    pub(crate) fn scalar(&self, at: usize) -> Scalar<N> {
        match self.data() {
            Data::Float(v) => Scalar::Float(v[at]),
            Data::Int(v) => Scalar::Int(v[at]),
            Data::Bool(v) => Scalar::Bool(v[at]),
        }
    }
}

impl<N: Number> Data<N> {
    /// No elements.
    pub(crate) fn empty(class: Class) -> Data<N> {
        match class {
            Class::Float => Data::Float(vec![]),
            Class::Int => Data::Int(vec![]),
            Class::Bool => Data::Bool(vec![]),
        }
    }

    /// Adds an element of its class.
    pub(crate) fn push(&mut self, x: Scalar<N>) {
        match (self, x) {
            (Data::Float(v), Scalar::Float(x)) => v.push(x),
            (Data::Int(v), Scalar::Int(x)) => v.push(x),
            (Data::Bool(v), Scalar::Bool(x)) => v.push(x),
            _ => {}
        }
    }

    /// [`spread`], of whichever class.
    pub(crate) fn spread(&self, extents: &[usize], strides: &[usize]) -> Result<Self, GraphError> {
        Ok(match self {
            Data::Float(v) => Data::Float(spread(v, extents, strides)?),
            Data::Int(v) => Data::Int(spread(v, extents, strides)?),
            Data::Bool(v) => Data::Bool(spread(v, extents, strides)?),
        })
    }

    /// These elements and then 0 or false so many times.
    pub(crate) fn extend_empty(&mut self, count: usize) {
        match self {
            Data::Float(v) => v.resize(v.len() + count, N::default()),
            Data::Int(v) => v.resize(v.len() + count, 0),
            Data::Bool(v) => v.resize(v.len() + count, false),
        }
    }

    /// These elements and then others of the same class.
    pub(crate) fn extend(&mut self, other: &Data<N>, range: std::ops::Range<usize>) {
        match (self, other) {
            (Data::Float(a), Data::Float(b)) => a.extend_from_slice(&b[range]),
            (Data::Int(a), Data::Int(b)) => a.extend_from_slice(&b[range]),
            (Data::Bool(a), Data::Bool(b)) => a.extend_from_slice(&b[range]),
            _ => {}
        }
    }
}
