//! What a step is given, checked and turned into the plan's inputs.

use crate::error::RuntimeError;

/// The entry that [`crate::Session::step`] runs.
pub(crate) const FORWARD: &str = "forward";

/// Which of a sequence's new tokens want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None of them: more of the prompt follows.
    None,
    /// The last one.
    Last,
    /// All of them.
    All,
}

/// One sequence's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// New tokens, at positions `past..past + tokens.len()`; at least one.
    pub tokens: &'a [i32],
    /// Tokens whose states are in the pages already.
    pub past: usize,
    /// Pages that hold the sequence's states, in order; at least enough for all its tokens.
    pub pages: &'a [u32],
    /// Which of the new tokens want logits.
    pub want: Want,
}

/// The sequences of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// At least one.
    pub sequences: &'a [Sequence<'a>],
}

/// The step symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Rows in the step: new tokens of all sequences.
    pub n: u64,
    /// Sequences.
    pub b: u64,
    /// Rows that want logits.
    pub m: u64,
    /// Pages per sequence, the most.
    pub mp: u64,
    /// Longest context, new tokens included.
    pub t: u64,
    /// Pages that the states have room for.
    pub pg: u64,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { n, b, m, mp, t, pg } = self;
        write!(f, "n = {n}, b = {b}, m = {m}, mp = {mp}, t = {t}, pg = {pg}")
    }
}

impl Shape {
    /// Values of a plan's step symbols, in its order.
    pub(crate) fn symbols(&self, names: &[String]) -> Result<Vec<i64>, RuntimeError> {
        let value = |name: &String| {
            let value = match name.as_str() {
                "n" => self.n,
                "b" => self.b,
                "m" => self.m,
                "mp" => self.mp,
                "t" => self.t,
                "pg" => self.pg,
                _ => {
                    return Err(RuntimeError::Unsupported {
                        what: "step symbol".into(),
                        found: format!("`{name}`"),
                        expected: "n, b, m, mp, t or pg".into(),
                    });
                }
            };
            let limit = i32::MAX as u64;
            let too_large =
                RuntimeError::StepTooLarge { what: "rows or pages", found: value, limit };
            if value <= limit { Ok(value as i64) } else { Err(too_large) }
        };
        names.iter().map(value).collect()
    }
}

/// An input that the host fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    Ids,
    Pos,
    Seq,
    Slot,
    Pages,
    Seg,
    Rows,
}

impl Feed {
    /// The feed of the input called `name`.
    pub(crate) fn named(name: &str) -> Option<Feed> {
        Some(match name {
            "ids" => Feed::Ids,
            "pos" => Feed::Pos,
            "seq" => Feed::Seq,
            "slot" => Feed::Slot,
            "pages" => Feed::Pages,
            "seg" => Feed::Seg,
            "rows" => Feed::Rows,
            _ => return None,
        })
    }
}

/// What bounds a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Number of token ids.
    pub vocab: u32,
    /// Most tokens of a sequence.
    pub context: u64,
    /// Pages of the state pool.
    pub pages: usize,
    /// Rows per page.
    pub page_tokens: usize,
}

/// The inputs of one step, in memory that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    ids: Vec<i32>,
    pos: Vec<i32>,
    seq: Vec<i32>,
    slot: Vec<i32>,
    pages: Vec<i32>,
    seg: Vec<i32>,
    rows: Vec<i32>,
}

impl Feeds {
    pub(crate) fn get(&self, feed: Feed) -> &[i32] {
        match feed {
            Feed::Ids => &self.ids,
            Feed::Pos => &self.pos,
            Feed::Seq => &self.seq,
            Feed::Slot => &self.slot,
            Feed::Pages => &self.pages,
            Feed::Seg => &self.seg,
            Feed::Rows => &self.rows,
        }
    }

    /// Fills all inputs from `batch`.
    ///
    /// # Errors
    /// Says which sequence breaks which of `bounds`.
    pub(crate) fn fill(
        &mut self,
        batch: &Batch<'_>,
        bounds: &Bounds,
    ) -> Result<Shape, RuntimeError> {
        let shape = check(batch, bounds)?;
        let Feeds { ids, pos, seq, slot, pages, seg, rows } = self;
        for list in
            [&mut *ids, &mut *pos, &mut *seq, &mut *slot, &mut *pages, &mut *seg, &mut *rows]
        {
            list.clear();
        }
        seg.push(0);
        // `check` bounds every number below by i32::MAX.
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let first = ids.len();
            ids.extend_from_slice(sequence.tokens);
            seq.resize(ids.len(), index as i32);
            for position in sequence.past..sequence.past + sequence.tokens.len() {
                let page = sequence.pages[position / bounds.page_tokens] as usize;
                pos.push(position as i32);
                slot.push((page * bounds.page_tokens + position % bounds.page_tokens) as i32);
            }
            let row = pages.len();
            let used = sequence.pages.len().min(shape.mp as usize);
            pages.extend(sequence.pages[..used].iter().map(|page| *page as i32));
            // Beyond a sequence's pages nothing is read; 0 is a page that exists.
            pages.resize(row + shape.mp as usize, 0);
            seg.push(ids.len() as i32);
            let wanted = match sequence.want {
                Want::None => ids.len()..ids.len(),
                Want::Last => ids.len() - 1..ids.len(),
                Want::All => first..ids.len(),
            };
            rows.extend(wanted.map(|row| row as i32));
        }
        Ok(shape)
    }
}

fn check(batch: &Batch<'_>, bounds: &Bounds) -> Result<Shape, RuntimeError> {
    let (b, pg) = (batch.sequences.len() as u64, bounds.pages as u64);
    let mut shape = Shape { b, pg, ..Shape::default() };
    if shape.b == 0 {
        return Err(RuntimeError::Empty { what: "the step".into(), expected: "sequence" });
    }
    for (index, sequence) in batch.sequences.iter().enumerate() {
        let (needed, length) = check_sequence(index, sequence, bounds)?;
        let tokens = sequence.tokens.len() as u64;
        shape.n += tokens;
        shape.m += match sequence.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => tokens,
        };
        shape.mp = shape.mp.max(needed);
        shape.t = shape.t.max(length);
    }
    let limit = i32::MAX as u64;
    for (what, found) in [("rows", shape.n), ("pages", shape.b.saturating_mul(shape.mp))] {
        if found > limit {
            return Err(RuntimeError::StepTooLarge { what, found, limit });
        }
    }
    Ok(shape)
}

/// Pages that the sequence needs, and its length after the step.
fn check_sequence(
    index: usize,
    sequence: &Sequence<'_>,
    bounds: &Bounds,
) -> Result<(u64, u64), RuntimeError> {
    if sequence.tokens.is_empty() {
        return Err(RuntimeError::Empty { what: format!("sequence {index}"), expected: "token" });
    }
    let vocab = bounds.vocab;
    let outside = |id: &i32| u32::try_from(*id).map_or(true, |id| id >= vocab);
    if let Some(at) = sequence.tokens.iter().position(outside) {
        let found = sequence.tokens[at];
        return Err(RuntimeError::Token { sequence: index, index: at, found, vocab });
    }
    let length = (sequence.past as u64).saturating_add(sequence.tokens.len() as u64);
    let limit = bounds.context.min(i32::MAX as u64);
    if length > limit {
        return Err(RuntimeError::Context { sequence: index, found: length, limit });
    }
    let needed = length.div_ceil(bounds.page_tokens as u64);
    if (sequence.pages.len() as u64) < needed {
        let found = format!("{} pages", sequence.pages.len());
        let expected = format!("{needed} for {length} tokens");
        return Err(RuntimeError::Pages { sequence: index, found, expected });
    }
    let used = &sequence.pages[..needed as usize];
    if let Some(page) = used.iter().find(|page| **page as usize >= bounds.pages) {
        let expected = format!("below {}", bounds.pages);
        let found = format!("page {page}");
        return Err(RuntimeError::Pages { sequence: index, found, expected });
    }
    Ok((needed, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { vocab: 100, context: 40, pages: 10, page_tokens: 4 };

    fn sequence<'a>(tokens: &'a [i32], past: usize, pages: &'a [u32], want: Want) -> Sequence<'a> {
        Sequence { tokens, past, pages, want }
    }

    #[test]
    fn inputs_are_ragged_rows() {
        let sequences = [
            sequence(&[5, 6, 7], 3, &[9, 2], Want::All),
            sequence(&[8], 8, &[1, 0, 3, 4], Want::Last),
            sequence(&[1, 2], 0, &[7], Want::None),
        ];
        let mut feeds = Feeds::default();
        for _ in 0..2 {
            let shape = feeds.fill(&Batch { sequences: &sequences }, &BOUNDS);
            let expected = Shape { n: 6, b: 3, m: 4, mp: 3, t: 9, pg: 10 };
            assert_eq!(shape.map_err(|e| e.code()), Ok(expected));
            assert_eq!(feeds.get(Feed::Ids), [5, 6, 7, 8, 1, 2]);
            assert_eq!(feeds.get(Feed::Pos), [3, 4, 5, 8, 0, 1]);
            assert_eq!(feeds.get(Feed::Seq), [0, 0, 0, 1, 2, 2]);
            assert_eq!(feeds.get(Feed::Slot), [39, 8, 9, 12, 28, 29]);
            assert_eq!(feeds.get(Feed::Pages), [9, 2, 0, 1, 0, 3, 7, 0, 0]);
            assert_eq!(feeds.get(Feed::Seg), [0, 3, 4, 6]);
            assert_eq!(feeds.get(Feed::Rows), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let code = |sequences: &[Sequence<'_>]| {
            let shape = Feeds::default().fill(&Batch { sequences }, &BOUNDS);
            shape.map(|_| ()).map_err(|error| error.code())
        };
        assert_eq!(code(&[]), Err("E0515"));
        assert_eq!(code(&[sequence(&[], 0, &[0], Want::Last)]), Err("E0515"));
        assert_eq!(code(&[sequence(&[-1], 0, &[0], Want::Last)]), Err("E0515"));
        assert_eq!(code(&[sequence(&[100], 0, &[0], Want::Last)]), Err("E0515"));
        assert_eq!(code(&[sequence(&[0], 40, &[0; 11], Want::Last)]), Err("E0516"));
        assert_eq!(code(&[sequence(&[0], usize::MAX, &[0], Want::Last)]), Err("E0516"));
        assert_eq!(code(&[sequence(&[0], 4, &[0], Want::Last)]), Err("E0516"));
        assert_eq!(code(&[sequence(&[0], 4, &[0, 10], Want::Last)]), Err("E0516"));
        assert_eq!(code(&[sequence(&[0], 39, &[0; 10], Want::Last)]), Ok(()));
    }

    #[test]
    fn a_step_has_no_more_rows_than_inputs_can_say() {
        let symbols = |n| Shape { n, ..Shape::default() }.symbols(&["n".to_owned()]);
        assert_eq!(symbols(i32::MAX as u64).map_err(|e| e.code()), Ok(vec![i64::from(i32::MAX)]));
        assert_eq!(symbols(1 << 31).map_err(|e| e.code()), Err("E0516"));
    }

    #[test]
    fn symbols_follow_the_plans_order() {
        let shape = Shape { n: 1, b: 2, m: 3, mp: 4, t: 5, pg: 6 };
        let symbols = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
            shape.symbols(&names).map_err(|error| error.code())
        };
        assert_eq!(symbols(&["t", "n", "pg", "mp", "b", "m"]), Ok(vec![5, 1, 6, 4, 2, 3]));
        assert_eq!(symbols(&["s"]), Err("E0506"));
    }
}
