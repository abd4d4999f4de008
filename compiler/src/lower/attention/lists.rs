//! Lists that kernels make at the beginning of a step, and that attention works through.

use crate::lower::code::StepInput;
use crate::lower::work::{Work, bytes};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, list, tensor};
use ir::kernel::{LoopHints, ParamId, ParamType, Role, ValueId};

/// A division of each row block's context into parts that instances share. It depends on the
/// context's length alone: what a sequence gives never depends on its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextParts {
    /// Rows of a block.
    pub rows: u32,
    /// Most parts of a context.
    pub most: u32,
    /// How long they are.
    pub length: PartLength,
    /// Parts begin at multiples of it.
    pub page: u32,
}

/// How long the parts of a context are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartLength {
    /// Parts of about the same length each, as many as have at least so many positions.
    Even(u32),
    /// So many positions each, however long the context is: a part is the same for every row that
    /// sees all of it.
    Fixed(u32),
}

/// A list of a step's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepList {
    /// Blocks of at most so many rows of one sequence each, by sequence and row.
    Rows(u32),
    /// The same, each once for each part of its context.
    Parts(ContextParts),
    /// Blocks of at most so many positions of each sequence's context.
    Context(u32),
}

/// Fields of a block of rows of one sequence: the sequence, first row, one past the last row of
/// the sequence, one past the last position that the block sees.
const ROWS: [&str; 4] = ["seq", "row", "end", "t"];
/// The same, and of the part of its context: first position, one past the last, number.
const PARTS: [&str; 7] = ["seq", "row", "end", "t", "from", "to", "part"];
/// Fields of a block of positions: the sequence, first position, one past the sequence's last.
const CONTEXT: [&str; 3] = ["seq", "from", "t"];

impl StepList {
    /// Name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            StepList::Rows(_) => "row_blocks",
            StepList::Parts(_) => "context_parts",
            StepList::Context(_) => "context_blocks",
        }
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            StepList::Rows(_) => &ROWS,
            StepList::Parts(_) => &PARTS,
            StepList::Context(_) => &CONTEXT,
        }
    }

    /// Most tuples: a block has at least one row, or is a page.
    pub fn max(self) -> Dim {
        match self {
            StepList::Rows(_) => Dim::symbol("n"),
            StepList::Parts(p) => Dim::symbol("n").times(&i64::from(p.most).into()),
            StepList::Context(_) => Dim::symbol("b").times(&Dim::symbol("mp")),
        }
    }

    /// Type of a parameter that is the list.
    pub fn param(self) -> ParamType {
        list(self.fields(), self.max())
    }

    fn words(self) -> Dim {
        self.max().plus(&1.into()).times(&(self.fields().len() as i64).into())
    }

    /// Bytes of the list.
    pub fn bytes(self) -> Dim {
        bytes(&self.words(), DType::I32)
    }

    /// Least work of making it: every sequence has at least one tuple.
    pub fn work(self) -> Work {
        let b = Dim::symbol("b");
        let words = b.times(&(2 + self.fields().len() as i64).into()).plus(&2.into());
        Work { bytes: bytes(&words, DType::I32), ..Work::default() }
    }

    /// The kernel that makes it. Parameters: seg, pos, the list.
    pub fn kernel(self, rows_max: i64) -> KernelBuilder {
        let mut b = KernelBuilder::new(self.name(), self.name());
        let sequences = b.symbol("b", 0, rows_max);
        b.symbol("n", 0, rows_max);
        b.symbol("mp", 0, i64::from(i32::MAX));
        let seg = b.param("seg", Role::In, tensor(DType::I32, &StepInput::Seg.dims()));
        let pos = b.param("pos", Role::In, tensor(DType::I32, &StepInput::Pos.dims()));
        let dims = [self.max().plus(&1.into()), (self.fields().len() as i64).into()];
        let to = b.param("blocks", Role::Out, tensor(DType::I32, &dims));
        let none = b.int(0);
        let count = for_each(&mut b, 0, sequences, 1, none, |b, seq, count| {
            let lo = b.load(seg, &[At::one(seq)]);
            let next = b.map("a + 1", &[("a", seq)]);
            let hi = b.load(seg, &[At::one(next)]);
            match self {
                StepList::Rows(rows) => {
                    b.family_param("rows", Attr::Dim(i64::from(rows).into()));
                    row_blocks(b, pos, [seq, lo, hi, count], rows, |b, fields, count| {
                        push(b, to, count, &fields)
                    })
                }
                StepList::Parts(parts) => {
                    b.family_param("rows", Attr::Dim(i64::from(parts.rows).into()));
                    b.family_param("parts", Attr::Dim(i64::from(parts.most).into()));
                    row_blocks(b, pos, [seq, lo, hi, count], parts.rows, |b, fields, count| {
                        context_parts(b, to, parts, fields, count)
                    })
                }
                StepList::Context(block) => {
                    b.family_param("positions", Attr::Dim(i64::from(block).into()));
                    context_blocks(b, to, pos, [seq, lo, hi, count], block)
                }
            }
        });
        b.store(count, to, &[At::one(0), At::one(0)]);
        b
    }
}

/// A loop that carries the number of tuples so far.
fn for_each(
    b: &mut KernelBuilder,
    lo: impl Into<ir::kernel::Bound>,
    hi: impl Into<ir::kernel::Bound>,
    step: u32,
    count: ValueId,
    body: impl FnOnce(&mut KernelBuilder, ValueId, ValueId) -> ValueId,
) -> ValueId {
    let carry = [("count", count)];
    let body = |b: &mut KernelBuilder, at, c: &[ValueId]| vec![body(b, at, c[0])];
    b.for_loop(lo, hi, step, &carry, LoopHints::default(), body)[0]
}

/// Writes the next tuple; the number of tuples with it.
fn push(b: &mut KernelBuilder, to: ParamId, count: ValueId, fields: &[ValueId]) -> ValueId {
    let place = b.map("a + 1", &[("a", count)]);
    for (field, value) in fields.iter().enumerate() {
        b.store(*value, to, &[At::one(place), At::one(field as i64)]);
    }
    place
}

/// Calls `each` with the fields of every block of `rows` rows of a sequence.
fn row_blocks(
    b: &mut KernelBuilder,
    pos: ParamId,
    [seq, lo, hi, count]: [ValueId; 4],
    rows: u32,
    each: impl FnOnce(&mut KernelBuilder, [ValueId; 4], ValueId) -> ValueId,
) -> ValueId {
    for_each(b, lo, hi, rows, count, |b, row, count| {
        let text = format!("min(a + {rows}, b) - 1");
        let last = b.map(&text, &[("a", row), ("b", hi)]);
        let seen = b.load(pos, &[At::one(last)]);
        let seen = b.map("a + 1", &[("a", seen)]);
        each(b, [seq, row, hi, seen], count)
    })
}

/// Positions of each part of a context of `seen`, a scalar.
fn part_length(b: &mut KernelBuilder, parts: ContextParts, seen: ValueId) -> ValueId {
    let ContextParts { most, length, page, .. } = parts;
    let least = match length {
        PartLength::Even(least) => least,
        PartLength::Fixed(positions) => return b.int(positions as i32),
    };
    // As many parts as have the least length, up to the most; then whole pages.
    let text = format!("max(min((t + {least} - 1) / {least}, {most}), 1)");
    let count = b.map(&text, &[("t", seen)]);
    let text = format!("((t + c - 1) / c + {page} - 1) / {page} * {page}");
    b.map(&text, &[("t", seen), ("c", count)])
}

/// Number of parts of a context of `seen`.
pub fn part_count(b: &mut KernelBuilder, parts: ContextParts, seen: ValueId) -> ValueId {
    let length = part_length(b, parts, seen);
    b.map("(t + l - 1) / l", &[("t", seen), ("l", length)])
}

fn context_parts(
    b: &mut KernelBuilder,
    to: ParamId,
    parts: ContextParts,
    fields: [ValueId; 4],
    count: ValueId,
) -> ValueId {
    let seen = fields[3];
    let length = part_length(b, parts, seen);
    let number = b.map("(t + l - 1) / l", &[("t", seen), ("l", length)]);
    for_each(b, 0, number, 1, count, |b, part, count| {
        let from = b.map("p * l", &[("p", part), ("l", length)]);
        let end = b.map("min(f + l, t)", &[("f", from), ("l", length), ("t", seen)]);
        let tuple = [fields.as_slice(), &[from, end, part]].concat();
        push(b, to, count, &tuple)
    })
}

fn context_blocks(
    b: &mut KernelBuilder,
    to: ParamId,
    pos: ParamId,
    [seq, lo, hi, count]: [ValueId; 4],
    block: u32,
) -> ValueId {
    // A sequence without rows in the step has no context to work on.
    let last = b.map("max(b - 1, 0)", &[("b", hi)]);
    let seen = b.load(pos, &[At::one(last)]);
    let seen = b.map("select(b > a, s + 1, 0)", &[("a", lo), ("b", hi), ("s", seen)]);
    for_each(b, 0, seen, block, count, |b, from, count| push(b, to, count, &[seq, from, seen]))
}
