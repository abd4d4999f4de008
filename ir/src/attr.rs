//! Attributes: what an op is told beside its operands.

use crate::dim::{Dim, Name};
use crate::dtype::Encoding;
use crate::expr::Expr;

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A flag.
    Bool(bool),
    /// A real number.
    Float(f64),
    /// A list of real numbers.
    Floats(Vec<f64>),
    /// An integer over symbols.
    Dim(Dim),
    /// A word: an index or a choice.
    Name(Name),
    /// Several words.
    Names(Vec<Name>),
    /// What `map` computes.
    Expr(Expr),
    /// How to store.
    Encoding(Encoding),
}

/// What kind of value an attribute takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    /// [`Attr::Bool`]
    Bool,
    /// [`Attr::Float`]
    Float,
    /// [`Attr::Floats`]
    Floats,
    /// [`Attr::Dim`]
    Dim,
    /// [`Attr::Name`]
    Name,
    /// [`Attr::Names`]
    Names,
    /// [`Attr::Expr`]
    Expr,
    /// [`Attr::Encoding`]
    Encoding,
}

/// Declaration of an attribute in an op's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrSpec {
    /// Key in text.
    pub key: &'static str,
    /// Kind of value.
    pub kind: AttrKind,
}

/// Attribute values in the order of the op's schema, one for each declared attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(pub Vec<Attr>);

impl Attr {
    /// Which kind this is.
    pub fn kind(&self) -> AttrKind {
        match self {
            Attr::Bool(_) => AttrKind::Bool,
            Attr::Float(_) => AttrKind::Float,
            Attr::Floats(_) => AttrKind::Floats,
            Attr::Dim(_) => AttrKind::Dim,
            Attr::Name(_) => AttrKind::Name,
            Attr::Names(_) => AttrKind::Names,
            Attr::Expr(_) => AttrKind::Expr,
            Attr::Encoding(_) => AttrKind::Encoding,
        }
    }
}
