//! What can be wrong with a graph or a program, E0102 to E0139.

use super::Type;
use super::range::Beyond;
use crate::attr::AttrKind;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, Encoding};
use crate::expr::ExprError;
use thiserror::Error;

/// One thing wrong with a graph, a program, or a value given to either.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum GraphError {
    /// A word where an op's name belongs.
    #[error("found op '{0}', expected one of the listed ops")]
    UnknownOp(Name),
    /// Too few or too many operands.
    #[error("{op} has {found} operands, expected {expected}")]
    OperandCount {
        /// The op.
        op: &'static str,
        /// Operands given.
        found: usize,
        /// Operands declared, as in the op's schema.
        expected: String,
    },
    /// Use of something that is not defined before.
    #[error("found {what} '{name}', which is not defined before this place")]
    Unknown {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: Name,
    },
    /// A second definition.
    #[error("{what} '{name}' is defined twice")]
    Duplicate {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: Name,
    },
    /// An index without an extent.
    #[error("index '{0}' has no extent: it is neither a symbol nor declared with `index`")]
    NoExtent(Name),
    /// An index that a value would have twice.
    #[error("index '{0}' occurs twice in a value, expected once")]
    RepeatedIndex(Name),
    /// A written type that is not what the op's rule gives.
    #[error("declared result {declared}, expected {inferred}")]
    ResultType {
        /// As written.
        declared: Type,
        /// As inferred.
        inferred: Type,
    },
    /// Too few or too many results.
    #[error("{op} has {found} declared results, expected {expected}")]
    ResultCount {
        /// The op.
        op: &'static str,
        /// Results written.
        found: usize,
        /// Results of the schema.
        expected: usize,
    },
    /// An attribute that the op lacks.
    #[error("{op} has no attribute '{key}', expected {expected}")]
    UnknownAttr {
        /// The op.
        op: &'static str,
        /// Key as written.
        key: Name,
        /// Keys of the schema.
        expected: String,
    },
    /// An attribute that is missing.
    #[error("{op} lacks the attribute '{key}'")]
    MissingAttr {
        /// The op.
        op: &'static str,
        /// Key of the schema.
        key: &'static str,
    },
    /// An attribute of the wrong kind.
    #[error("attribute '{key}' of {op} is {found}, expected {expected}")]
    AttrKind {
        /// The op.
        op: &'static str,
        /// Key of the schema.
        key: &'static str,
        /// Kind given.
        found: AttrKind,
        /// Kind declared.
        expected: AttrKind,
    },
    /// An attribute of the right kind whose value makes no sense.
    #[error("attribute '{key}' of {op} is {found}, expected {expected}")]
    AttrValue {
        /// The op.
        op: &'static str,
        /// Key of the schema.
        key: &'static str,
        /// Value given.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// An operand that the op cannot compute with.
    #[error("operand '{operand}' of {op} has encoding {found}, expected {expected}")]
    OperandEncoding {
        /// The op.
        op: &'static str,
        /// Operand's name in the schema.
        operand: &'static str,
        /// Encoding given.
        found: Encoding,
        /// What it may be.
        expected: String,
    },
    /// An operand that lacks an index the op needs of it.
    #[error("operand '{operand}' of {op} is {found}, expected it to have index '{index}'")]
    MissingIndex {
        /// The op.
        op: &'static str,
        /// Operand's name in the schema.
        operand: &'static str,
        /// Type given.
        found: Type,
        /// Index needed.
        index: Name,
    },
    /// An operand whose indices do not fit the op's rule.
    #[error("operand '{operand}' of {op} is {found}, expected {expected}")]
    OperandIndices {
        /// The op.
        op: &'static str,
        /// Operand's name in the schema.
        operand: &'static str,
        /// Type given.
        found: Type,
        /// What the rule asks for.
        expected: String,
    },
    /// Two extents that must be equal and are not.
    #[error("{op} needs equal extents, found {left} and {right}")]
    Extents {
        /// The op.
        op: &'static str,
        /// One extent.
        left: Dim,
        /// The other.
        right: Dim,
    },
    /// A range beyond the extent it is cut from.
    #[error("{op} reaches index {end} of an extent of {extent}")]
    Range {
        /// The op.
        op: &'static str,
        /// One past the last index.
        end: Dim,
        /// What there is.
        extent: Dim,
    },
    /// A `where` operand given to an op that takes none.
    #[error("{0} takes no `where` operand")]
    UnexpectedMask(&'static str),
    /// An expression without a type.
    #[error("{0}")]
    Expr(ExprError),
    /// An op whose result indices must be stated.
    #[error("{0} needs its result type stated")]
    Undeclared(&'static str),
    /// A symbol whose bounds or value contradict each other.
    #[error("symbol '{name}' is bound to {value}, outside {lo}..={hi}")]
    SymbolBounds {
        /// The symbol.
        name: Name,
        /// Its value, or its least value where the bounds are empty.
        value: i64,
        /// Least value.
        lo: i64,
        /// Greatest value.
        hi: i64,
    },
    /// Something of a graph that refers to nothing.
    #[error("{what} {index} does not exist")]
    Dangling {
        /// Kind of thing.
        what: &'static str,
        /// Its number.
        index: u32,
    },
    /// A second `append` to one state, or one to something else than a state.
    #[error("append to '{0}', expected a state that nothing else appends to")]
    Append(Name),
    /// An extent that evaluation needs and cannot find.
    #[error("the extent {0} has no value here")]
    Unbound(Dim),
    /// A divisor that is zero in the prime field: draw the inputs again.
    #[error("division by zero in the prime field; evaluate again with another key")]
    Resample,
    /// A divisor of integers that is not positive.
    #[error("integer division by {0}, expected a positive divisor")]
    Divisor(i32),
    /// An index outside what it selects from.
    #[error("{op} selects row {found} of {extent}")]
    OutOfRange {
        /// The op.
        op: &'static str,
        /// Row asked for.
        found: i64,
        /// Rows there are.
        extent: usize,
    },
    /// A tensor that does not have the shape or class its place asks for.
    #[error("'{name}' is given as {found}, expected {expected}")]
    Given {
        /// Parameter, input or result.
        name: Name,
        /// Class and shape of the tensor.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// More memory than an evaluation may take.
    #[error("a tensor of {elements} elements is more than an evaluation may hold")]
    TooLarge {
        /// Elements asked for, saturated.
        elements: u64,
    },
    /// A stored tensor whose size is not what its shape says.
    #[error("stored tensor '{name}' has {found} bytes, expected {expected}")]
    StoredBytes {
        /// The tensor.
        name: Name,
        /// Bytes there are.
        found: usize,
        /// Bytes its shape and encoding ask for.
        expected: usize,
    },
    /// A weight whose source cannot be what it says.
    #[error("weight '{name}': {reason}")]
    Source {
        /// The weight.
        name: Name,
        /// What does not fit.
        reason: &'static str,
    },
    /// A call with too few or too many arguments or results.
    #[error("call of @{block} has {found} {what}, expected {expected}")]
    CallCount {
        /// The block.
        block: Name,
        /// Arguments or results.
        what: &'static str,
        /// As written.
        found: usize,
        /// As the block has.
        expected: usize,
    },
    /// An argument of the wrong kind, encoding or shape.
    #[error("argument '{param}' of @{block} is {found}, expected {expected}")]
    Argument {
        /// The block.
        block: Name,
        /// The block's parameter.
        param: Name,
        /// What is passed.
        found: String,
        /// What the block takes.
        expected: String,
    },
    /// A state of a kind that no op writes.
    #[error("state '{0}' is of a kind that no op writes yet, expected rows")]
    StateKind(Name),
    /// Two blocks that are equal in all but name.
    #[error("block @{1} equals @{0}, expected each distinct block once")]
    SameBlock(Name, Name),
    /// A name that the text form could not read back.
    #[error("found {what} name '{name}', expected letters, digits, '_' and inner '.'")]
    BadName {
        /// Kind of thing.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// An operand whose class is not what an op computes with.
    #[error("operand '{operand}' of {op} is of class {found:?}, expected {expected:?}")]
    OperandClass {
        /// The op.
        op: &'static str,
        /// Operand's name in the schema.
        operand: &'static str,
        /// Class given.
        found: Class,
        /// Class needed.
        expected: Class,
    },
    /// An operand that may lie where an op has no meaning, which compiled code does not check.
    #[error("@{graph}, %{value}: {} of {op} may be {}, expected {}", .beyond.what, .beyond.found,
        .beyond.expected)]
    Reach {
        /// The block.
        graph: Name,
        /// The node's result.
        value: Name,
        /// The op.
        op: &'static str,
        /// What may lie where.
        beyond: Box<Beyond>,
    },
}

impl GraphError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0102", "a word where an op's name belongs"),
        ("E0103", "too few or too many operands"),
        ("E0104", "use of something that is not defined before"),
        ("E0105", "a second definition"),
        ("E0106", "an index without an extent"),
        ("E0107", "an index that a value would have twice"),
        ("E0108", "a written type that is not what the op's rule gives, or is missing"),
        ("E0109", "too few or too many results"),
        ("E0110", "an attribute that the op lacks"),
        ("E0111", "an attribute that is missing"),
        ("E0113", "an attribute whose kind or value makes no sense"),
        ("E0114", "an operand that the op cannot compute with"),
        ("E0115", "an operand that lacks an index the op needs of it"),
        ("E0116", "an operand whose indices do not fit the op's rule"),
        ("E0117", "two extents that must be equal and are not"),
        ("E0118", "a range beyond the extent it is cut from"),
        ("E0119", "a `where` operand given to an op that takes none"),
        ("E0120", "an expression without a type"),
        ("E0122", "a symbol whose bounds or value contradict each other"),
        ("E0123", "something of a graph that refers to nothing, or that no text could name"),
        ("E0124", "a second `append` to one state, or one to something else than a state"),
        ("E0129", "a graph that has no value: what it is given does not fit, or is too much"),
        ("E0131", "a weight whose source cannot be what it says"),
        ("E0132", "a call with too few or too many arguments or results"),
        ("E0133", "an argument of the wrong kind, encoding or shape"),
        ("E0134", "a state of a kind that no op writes"),
        ("E0135", "two blocks that are equal in all but name"),
        ("E0136", "an operand whose class is not what an op computes with"),
        ("E0139", "an operand that may lie where an op has no meaning"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            GraphError::UnknownOp(_) => "E0102",
            GraphError::OperandCount { .. } => "E0103",
            GraphError::Unknown { .. } => "E0104",
            GraphError::Duplicate { .. } => "E0105",
            GraphError::NoExtent(_) => "E0106",
            GraphError::RepeatedIndex(_) => "E0107",
            GraphError::ResultType { .. } | GraphError::Undeclared(_) => "E0108",
            GraphError::ResultCount { .. } => "E0109",
            GraphError::UnknownAttr { .. } => "E0110",
            GraphError::MissingAttr { .. } => "E0111",
            GraphError::AttrKind { .. } | GraphError::AttrValue { .. } => "E0113",
            GraphError::OperandEncoding { .. } => "E0114",
            GraphError::MissingIndex { .. } => "E0115",
            GraphError::OperandIndices { .. } => "E0116",
            GraphError::Extents { .. } => "E0117",
            GraphError::Range { .. } => "E0118",
            GraphError::UnexpectedMask(_) => "E0119",
            GraphError::Expr(_) => "E0120",
            GraphError::SymbolBounds { .. } => "E0122",
            GraphError::Dangling { .. } | GraphError::BadName { .. } => "E0123",
            GraphError::Append(_) => "E0124",
            GraphError::Unbound(_)
            | GraphError::Resample
            | GraphError::OutOfRange { .. }
            | GraphError::Given { .. }
            | GraphError::TooLarge { .. }
            | GraphError::StoredBytes { .. }
            | GraphError::Divisor(_) => "E0129",
            GraphError::Source { .. } => "E0131",
            GraphError::CallCount { .. } => "E0132",
            GraphError::Argument { .. } => "E0133",
            GraphError::StateKind(_) => "E0134",
            GraphError::SameBlock(..) => "E0135",
            GraphError::OperandClass { .. } => "E0136",
            GraphError::Reach { .. } => "E0139",
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            GraphError::UnknownOp(_) => "`latentc ops` lists every op",
            GraphError::OperandCount { .. } | GraphError::ResultCount { .. } => {
                "compare with the op's line in `latentc ops`"
            }
            GraphError::Unknown { .. } => "define it above its first use, or correct the spelling",
            GraphError::Duplicate { .. } => "rename one of the two",
            GraphError::NoExtent(_) => "add `index NAME = DIM` to the header, or a symbol",
            GraphError::RepeatedIndex(_) => "rename one of the two with `rename`",
            GraphError::ResultType { .. } => "write the expected type, or change the operands",
            GraphError::UnknownAttr { .. }
            | GraphError::MissingAttr { .. }
            | GraphError::AttrKind { .. }
            | GraphError::AttrValue { .. } => "compare with the op's line in `latentc ops`",
            GraphError::OperandEncoding { .. } => "insert `cast`, `quantize` or `dequantize`",
            GraphError::OperandClass { .. } => "convert with `map { float(%x) }` or a comparison",
            GraphError::MissingIndex { .. } | GraphError::OperandIndices { .. } => {
                "`rename` the operand's indices to what the op needs"
            }
            GraphError::Extents { .. } | GraphError::Range { .. } => {
                "declare the extents in terms of each other with `index`"
            }
            GraphError::UnexpectedMask(_) => "mask its operands with `map { select(..) }`",
            GraphError::Expr(_) => "convert operands with float() or int(), or compare them",
            GraphError::Undeclared(_) => "write `: dtype[indices]` after it",
            GraphError::SymbolBounds { .. } => "widen the bounds, or choose another value",
            GraphError::Dangling { .. } => "build graphs with GraphBuilder or the parser",
            GraphError::Append(_) => "append once, to a parameter declared with `state`",
            GraphError::Unbound(_) => "bind its symbols, or give an argument that determines them",
            GraphError::Resample => "this is expected about once in 2^60 divisions",
            GraphError::BadName { .. } => "choose a name that the text form has",
            GraphError::Divisor(_) => "guard the division with select()",
            GraphError::Reach { .. } => {
                "bound it: `map { min(max(%x, 0), %last) }`, `%last = iota {start = EXTENT - 1}`"
            }
            GraphError::OutOfRange { .. } => "check the indices against the extent selected from",
            GraphError::Given { .. } => "give it in the declared shape",
            GraphError::TooLarge { .. } => "evaluate with smaller extents",
            GraphError::StoredBytes { .. } => "the checkpoint is damaged or of another config",
            GraphError::Source { .. } => "correct the importer's view of the stored tensor",
            GraphError::CallCount { .. } | GraphError::Argument { .. } => {
                "pass what the block's signature asks for"
            }
            GraphError::StateKind(_) => "declare the state as rows",
            GraphError::SameBlock(..) => "call the first of the two in both places",
        }
    }
}
