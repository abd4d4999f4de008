//! Attributes: what an op is told beside its operands.

use crate::dim::{Dim, Name};
use crate::dtype::Encoding;
use crate::expr::Expr;
use std::fmt;
use std::marker::PhantomData;

/// Value of an attribute. Numbers are equal where their text is: 0 is not -0, NaN is NaN.
#[derive(Clone, Debug)]
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

impl fmt::Display for AttrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttrKind::Bool => "true or false",
            AttrKind::Float => "a number",
            AttrKind::Floats => "a list of numbers",
            AttrKind::Dim => "an extent",
            AttrKind::Name => "a name",
            AttrKind::Names => "a list of names",
            AttrKind::Expr => "an expression",
            AttrKind::Encoding => "an encoding",
        })
    }
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

impl PartialEq for Attr {
    fn eq(&self, other: &Attr) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        match (self, other) {
            (Attr::Bool(a), Attr::Bool(b)) => a == b,
            (Attr::Float(a), Attr::Float(b)) => same(*a, *b),
            (Attr::Floats(a), Attr::Floats(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b))
            }
            (Attr::Dim(a), Attr::Dim(b)) => a == b,
            (Attr::Name(a), Attr::Name(b)) => a == b,
            (Attr::Names(a), Attr::Names(b)) => a == b,
            (Attr::Expr(a), Attr::Expr(b)) => a == b,
            (Attr::Encoding(a), Attr::Encoding(b)) => a == b,
            _ => false,
        }
    }
}

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

/// A Rust type that an attribute can be read as and written from.
pub trait AttrValue: Sized {
    /// The kind it belongs to.
    const KIND: AttrKind;
    /// The value, where the kind is right.
    fn of(attr: &Attr) -> Option<&Self>;
}

/// Position, name and Rust type of an attribute: declared once in the op's file.
#[derive(Debug)]
pub struct Key<T> {
    /// Position in the schema.
    pub at: usize,
    /// Key in text.
    pub key: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T: AttrValue> Key<T> {
    /// The attribute at position `at` of the schema, written `key` in text.
    pub const fn new(at: usize, key: &'static str) -> Self {
        Key { at, key, value: PhantomData }
    }

    /// Its line in the schema.
    pub const fn spec(&self) -> AttrSpec {
        AttrSpec { key: self.key, kind: T::KIND }
    }
}

macro_rules! attr_values {
    ($($variant:ident($ty:ty)),* $(,)?) => {$(
        impl AttrValue for $ty {
            const KIND: AttrKind = AttrKind::$variant;
            fn of(attr: &Attr) -> Option<&Self> {
                match attr { Attr::$variant(v) => Some(v), _ => None }
            }
        }
        impl From<$ty> for Attr {
            fn from(v: $ty) -> Attr { Attr::$variant(v) }
        }
    )*};
}
attr_values! {
    Bool(bool), Float(f64), Floats(Vec<f64>), Dim(Dim), Name(Name), Names(Vec<Name>),
    Expr(Expr), Encoding(Encoding),
}
