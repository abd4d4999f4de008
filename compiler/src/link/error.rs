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
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0250", "not an object file at all, or a damaged one"),
        ("E0251", "an ELF file of another kind"),
        ("E0252", "a section that kernels have no use for"),
        ("E0253", "a relocation that the linker does not know, or not there"),
        ("E0254", "a kernel calls something that no object defines"),
        ("E0255", "two objects define one symbol"),
        ("E0256", "the value of a relocation does not fit its field"),
        ("E0257", "a relocation or symbol lies outside its section"),
        ("E0258", "more code than any relocation can span"),
        ("E0259", "nothing to call"),
    ];

    /// Stable code of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            LinkError::Unreadable { .. } => "E0250",
            LinkError::Foreign { .. } => "E0251",
            LinkError::Section { .. } => "E0252",
            LinkError::Relocation { .. } => "E0253",
            LinkError::Undefined { .. } => "E0254",
            LinkError::Duplicate { .. } => "E0255",
            LinkError::Value { .. } => "E0256",
            LinkError::Outside { .. } => "E0257",
            LinkError::TooLarge { .. } => "E0258",
            LinkError::Empty { .. } => "E0259",
        }
    }

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
