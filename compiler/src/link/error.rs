//! Why objects could not be linked.

/// A relocation, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Name of the object.
    pub object: String,
    /// Name of the section.
    pub section: String,
    /// Offset in the section.
    pub offset: u64,
    /// Kind of the relocation.
    pub kind: String,
    /// What it refers to.
    pub symbol: String,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Site { object, section, offset, kind, symbol } = self;
        write!(f, "object `{object}`, section `{section}`, offset {offset:#x}: relocation ")?;
        write!(f, "{kind} for `{symbol}`")
    }
}

/// A refusal of the linker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Not an object file at all, or a damaged one.
    #[error("object `{object}` cannot be read: {message}")]
    Unreadable {
        /// Name of the object.
        object: String,
        /// What the reader said.
        message: String,
    },
    /// An ELF file of another kind.
    #[error("object `{object}` is {found}, expected {expected}")]
    Foreign {
        /// Name of the object.
        object: String,
        /// Its kind.
        found: String,
        /// The kind that is linked here.
        expected: String,
    },
    /// A section that kernels have no use for.
    #[error("object `{object}`, section `{section}` is {found}, expected {expected}")]
    Section {
        /// Name of the object.
        object: String,
        /// Name of the section.
        section: String,
        /// What it is.
        found: String,
        /// What is linked.
        expected: &'static str,
    },
    /// A relocation that the linker does not know, or not there.
    #[error("{site} is not supported")]
    Relocation {
        /// Where and what it is.
        site: Box<Site>,
    },
    /// A kernel calls something that no object defines.
    #[error("object `{object}` needs the symbol `{symbol}`, which no object defines")]
    Undefined {
        /// Name of the object.
        object: String,
        /// Name of the symbol.
        symbol: String,
    },
    /// Two objects define one symbol.
    #[error("symbol `{symbol}` is defined by `{first}` and by `{second}`")]
    Duplicate {
        /// Name of the symbol.
        symbol: String,
        /// The object named first.
        first: String,
        /// The object named second.
        second: String,
    },
    /// The value of a relocation does not fit its field.
    #[error("{site} has value {value:#x}, expected {expected}")]
    Value {
        /// Where and what it is.
        site: Box<Site>,
        /// The value.
        value: i64,
        /// What fits.
        expected: &'static str,
    },
    /// A relocation or symbol lies outside its section.
    #[error(
        "object `{object}`, section `{section}`: {what} at {offset:#x}, expected within {bytes} \
             bytes"
    )]
    Outside {
        /// Name of the object.
        object: String,
        /// Name of the section.
        section: String,
        /// What lies there.
        what: String,
        /// Where.
        offset: u64,
        /// Size of the section.
        bytes: u64,
    },
    /// More code than any relocation can span.
    #[error("image of {bytes} bytes, expected at most {limit}")]
    TooLarge {
        /// Bytes found so far.
        bytes: u64,
        /// Most that is linked.
        limit: u64,
    },
    /// Nothing to call.
    #[error("{objects} objects define no function, expected at least one")]
    Empty {
        /// Number of objects.
        objects: usize,
    },
}

impl LinkError {
    /// What the reader of the message can do next.
    pub fn help(&self) -> &'static str {
        match self {
            LinkError::Foreign { .. } => "compile all objects of an image for one machine",
            LinkError::Section { .. } => {
                "kernels hold code and constants only: keep state in arguments and scratch"
            }
            LinkError::Relocation { .. } => {
                "emit position-independent code in the small code model, without thread-local \
                 storage"
            }
            LinkError::Undefined { .. } => {
                "kernels import nothing: have the backend expand the call in place"
            }
            LinkError::Duplicate { .. } => "give every kernel a name of its own",
            LinkError::TooLarge { .. } => "compile fewer variants into one image",
            LinkError::Unreadable { .. }
            | LinkError::Value { .. }
            | LinkError::Outside { .. }
            | LinkError::Empty { .. } => {
                "this is a defect of the backend that emitted the object; compile with another"
            }
        }
    }
}
