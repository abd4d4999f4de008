//! Whether a call of two files, given the same, computes the same.
//!
//! What may be apart is measured: the second file's call is run once more with its inputs, and those
//! that the rows of its context were made of, moved by as much as the coarser of both files rounds,
//! and what that changes of a value is what rounding may change of it. Rows that go to other experts
//! for a reason as small are left out behind the choice.

use super::same::Pair;
use super::watch::{CallSeen, Reading};
use crate::diff::compare::{FLIPS, REORDERED, Ranked, SMALL, apart, greatest, step};
use ir::dim::Name;
use ir::dtype::Class;
use ir::tensor::transposed;
use std::collections::{BTreeMap, BTreeSet};

/// How often the change by a rounding of the inputs may be met: inner values are rounded, too.
const ROUNDINGS: f64 = 6.0;

/// The part of a call's own rounding that any value of it may change by at least: of a few numbers,
/// the one way in which inputs are moved may change each by chance hardly at all.
const LEAST: f64 = 1.0 / 8.0;

/// A call of both files, and of the second with its inputs moved.
#[derive(Clone, Copy)]
pub struct Three<'a> {
    /// The first file's.
    pub first: &'a CallSeen,
    /// The second's.
    pub second: &'a CallSeen,
    /// The second's with inputs moved.
    pub moved: &'a CallSeen,
    /// By what part they are moved.
    pub part: f64,
    /// What both have in common.
    pub pairs: &'a [Pair],
}

/// What a call's comparison amounts to.
#[derive(Default)]
pub struct Judged {
    /// Values compared.
    pub values: usize,
    /// Greatest error as part of its tolerance.
    pub worst: f64,
    /// Rows that go to other experts, for a reason as small as rounding.
    pub turned: usize,
    /// The first value beyond its tolerance.
    pub beyond: Option<Beyond>,
}

/// A value beyond its tolerance.
pub struct Beyond {
    /// Its name in each file's block.
    pub names: [Name; 2],
    /// The worst element's position in the first file's memory.
    pub position: Vec<u64>,
    /// Its number among that value's.
    pub element: u64,
    /// Its number among the second file's.
    pub second_element: u64,
    /// What each file has there.
    pub numbers: [f64; 2],
    /// The difference, as part of the greatest number of its row.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
    /// Elements beyond the tolerance.
    pub beyond: u64,
    /// Of so many.
    pub of: u64,
}

/// One value, as the first file has it and as the second does, in the first's order.
struct Aligned<'a> {
    first: &'a Reading,
    second: &'a Reading,
    /// For each element of the first, its number among the second's.
    at: Vec<usize>,
    moved: Option<&'a Reading>,
    /// The least that a row's differences are parts of.
    least: f64,
    /// By what part inputs are moved.
    part: f64,
}

/// Compares all values that a call of both files has. `rounding` says how coarsely the launch rounds
/// that wrote a value, by file and position.
pub fn judge(three: Three<'_>, rounding: &dyn Fn(usize, usize) -> f64) -> Judged {
    let mut judged = Judged::default();
    let mut values: Vec<(&Name, &Reading)> = three.first.values.iter().collect();
    values.retain(|(_, r)| r.given.is_none());
    // Choices before what their launch computes by them.
    values.sort_by_key(|(_, r)| (r.launch, r.class() == Class::Float));
    let mut turned = three.turned();
    for (name, first) in values {
        let shared = three.pairs.iter().filter(|p| p.first == *name);
        let Some((pair, aligned)) =
            shared.filter_map(|p| Some((p, Aligned::new(first, p, three)?))).next()
        else {
            continue;
        };
        judged.values += 1;
        let narrow = [(0, first.launch), (1, aligned.second.launch)];
        let narrow = narrow.map(|(file, launch)| rounding(file, launch));
        let found = match first.class() {
            Class::Float => aligned.floats(&mut turned, narrow[0].max(narrow[1])),
            _ => {
                let ranked = [three.second, three.moved].map(|c| c.ranked.get(&pair.second));
                aligned.choices(&mut turned, ranked)
            }
        };
        let Some(found) = found else { continue };
        judged.worst = judged.worst.max(found.error / found.tolerance);
        if found.beyond > 0 && judged.beyond.is_none() {
            let names = [pair.first.clone(), pair.second.clone()];
            judged.beyond = Some(Beyond { names, ..found });
        }
    }
    judged.turned = turned.rows.len();
    judged
}

/// Rows that are sent elsewhere.
#[derive(Default)]
struct Turned {
    /// By the first file and by the second.
    rows: BTreeSet<u64>,
    /// By the second file and by it with its inputs moved.
    moved: BTreeSet<u64>,
    /// That may be sent elsewhere by a choice that only the second file can be asked about, and its
    /// launch there.
    near: BTreeMap<u64, usize>,
}

impl Three<'_> {
    /// Of choices that the files do not both have in memory: the rows that moving the inputs turns,
    /// and those so near to another choice that rounding may turn them.
    fn turned(&self) -> Turned {
        let launch = |name: &Name| Some(self.second.values.get(name)?.launch);
        let both = self.pairs.iter().filter(|p| self.first.values.contains_key(&p.first));
        let chosen = both.filter_map(|p| self.second.values.get(&p.second));
        let chosen = chosen.filter(|r| r.class() == Class::Int);
        let compared: BTreeSet<usize> = chosen.map(|r| r.launch).collect();
        let mut turned = Turned::default();
        for (name, ranked) in &self.second.ranked {
            let Some(launch) = launch(name).filter(|l| !compared.contains(l)) else { continue };
            let moved = self.moved.ranked.get(name);
            let closes = ROUNDINGS * score_change(Some(ranked), moved, self.part);
            let rows = || (0..).zip(ranked).filter_map(|(row, of)| Some((row, of.as_ref()?)));
            let close = rows().filter(|(_, of)| of.cut.min(of.margin) <= closes);
            turned.near.extend(close.map(|(row, _)| (row, launch)));
            let takes = |row: u64| moved?.get(row as usize)?.as_ref().map(|of| &of.taken);
            let others = rows().filter(|(row, of)| takes(*row).is_some_and(|t| *t != of.taken));
            turned.moved.extend(others.map(|(row, _)| row));
        }
        turned
    }
}

impl<'a> Aligned<'a> {
    fn new(first: &'a Reading, pair: &Pair, three: Three<'a>) -> Option<Aligned<'a>> {
        let second = three.second.values.get(&pair.second).filter(|r| r.given.is_none())?;
        if first.class() != second.class() {
            return None;
        }
        // For each axis of the second, the first's.
        let axis = |name: &Name| {
            let (_, own) = pair.indices.iter().find(|(index, _)| index == name)?;
            first.indices.iter().position(|index| index == own)
        };
        let axes: Vec<usize> = second.indices.iter().map(axis).collect::<Option<_>>()?;
        if axes.len() != first.dims.len()
            || axes.iter().zip(&second.dims).any(|(a, d)| first.dims[*a] != *d)
            || axes.first().is_some_and(|rows| *rows != 0)
        {
            return None;
        }
        let dims: Vec<usize> = first.dims.iter().map(|d| *d as usize).collect();
        let mut at = vec![0; first.numbers.len()];
        for (second, first) in transposed(&dims, &axes).enumerate() {
            at[first] = second;
        }
        let moved = three.moved.values.get(&pair.second).filter(|r| r.dims == second.dims);
        let least = (SMALL * greatest(&second.numbers)).max(f64::from(f32::MIN_POSITIVE));
        Some(Aligned { first, second, at, moved, least, part: three.part })
    }

    /// Elements of a row.
    fn width(&self) -> usize {
        self.first.dims[1..].iter().product::<u64>().max(1) as usize
    }

    /// Rows of both, the second's in the first's order.
    fn rows(&self) -> impl Iterator<Item = (u64, &[f64], Vec<f64>)> {
        let width = self.width();
        let rows = self.first.numbers.chunks_exact(width).zip(self.at.chunks_exact(width));
        let second = |at: &[usize]| at.iter().map(|i| self.second.numbers[*i]).collect();
        (0..).zip(rows).map(move |(row, (first, at))| (row, first, second(at)))
    }

    fn position(&self, mut element: u64) -> Vec<u64> {
        let mut position: Vec<u64> = vec![];
        for extent in self.first.dims.iter().rev() {
            position.insert(0, element % extent);
            element /= extent;
        }
        position
    }

    fn beyond(&self, element: usize, error: f64, tolerance: f64, beyond: u64) -> Beyond {
        let second = self.at[element];
        Beyond {
            names: [Name::from(""), Name::from("")],
            position: self.position(element as u64),
            element: element as u64,
            second_element: second as u64,
            numbers: [self.first.numbers[element], self.second.numbers[second]],
            error,
            tolerance,
            beyond,
            of: self.at.len() as u64,
        }
    }

    /// What a row's differences are parts of.
    fn scale(&self, row: &[f64]) -> f64 {
        greatest(row).max(self.least)
    }

    /// The worst element of the rows that are not turned, and how many are beyond.
    fn floats(&self, turned: &mut Turned, narrow: f64) -> Option<Beyond> {
        let stored = step(self.first.encoding).max(step(self.second.encoding));
        let response = self.response(turned, narrow).max(LEAST * self.part);
        let limit = REORDERED + FLIPS * narrow.max(stored) + ROUNDINGS * response;
        let width = self.width();
        let (mut worst, mut beyond) = (None::<(usize, f64)>, 0);
        for (row, first, second) in self.rows() {
            if turned.rows.contains(&row) {
                continue;
            }
            let scale = self.scale(&second);
            let errors = first.iter().zip(&second).map(|(a, b)| apart(*a, *b, scale));
            let errors: Vec<f64> = errors.collect();
            let may_turn = turned.near.get(&row).is_some_and(|at| *at <= self.second.launch);
            if may_turn && errors.iter().any(|error| *error > limit) {
                turned.rows.insert(row);
                continue;
            }
            for (at, error) in errors.into_iter().enumerate() {
                beyond += u64::from(error > limit);
                if worst.is_none_or(|(_, most)| error > most) {
                    worst = Some((row as usize * width + at, error));
                }
            }
        }
        let (element, error) = worst?;
        Some(self.beyond(element, error, limit, beyond))
    }

    /// What moving the inputs changes, as part of a row: the most of all rows that go the same way;
    /// where none does, as much as they are moved.
    fn response(&self, turned: &Turned, narrow: f64) -> f64 {
        let unknown = narrow.max(self.part);
        let Some(moved) = self.moved else { return unknown };
        let width = self.width();
        let mut most = None::<f64>;
        for (row, _, second) in self.rows() {
            if turned.moved.contains(&row) {
                continue;
            }
            let scale = self.scale(&second);
            let at = &self.at[row as usize * width..][..width];
            let apart = at.iter().zip(&second).map(|(i, b)| apart(moved.numbers[*i], *b, scale));
            let row = apart.filter(|a| a.is_finite()).fold(0.0, f64::max);
            most = Some(most.unwrap_or(0.0).max(row));
        }
        most.unwrap_or(unknown)
    }

    /// Rows that choose otherwise: a reason as small as rounding turns them, any other is an error.
    fn choices(
        &self,
        turned: &mut Turned,
        [ranked, moved]: [Option<&Vec<Option<Ranked>>>; 2],
    ) -> Option<Beyond> {
        let closes = ROUNDINGS * score_change(ranked, moved, self.part);
        if let Some(moved) = self.moved {
            let rows = self.second.numbers.chunks_exact(self.width());
            let pairs = rows.zip(moved.numbers.chunks_exact(self.width()));
            turned.moved.extend((0..).zip(pairs).filter(|(_, (a, b))| a != b).map(|(row, _)| row));
        }
        let (mut first, mut beyond) = (None, 0);
        for (row, own, other) in self.rows() {
            let Some(at) = own.iter().zip(&other).position(|(a, b)| a != b) else { continue };
            let of_row = ranked.and_then(|all| all.get(row as usize)?.as_ref());
            let gap = of_row.map_or(f64::INFINITY, |r| gap(r, own, &other));
            if gap <= closes {
                turned.rows.insert(row);
                continue;
            }
            beyond += 1;
            first.get_or_insert((row as usize * self.width() + at, gap));
        }
        Some(match first {
            Some((element, gap)) => {
                let closes = closes.max(f64::from(f32::MIN_POSITIVE));
                self.beyond(element, gap, closes, beyond)
            }
            None => self.beyond(0, 0.0, 1.0, 0),
        })
    }
}

/// How much what is ranked must move for two choices of a row to be the same.
fn gap(ranked: &Ranked, own: &[f64], other: &[f64]) -> f64 {
    // Behind what is chosen may stand what every row takes.
    let chosen = |at: f64| (at as usize) < ranked.scores.len();
    if own.iter().zip(other).any(|(a, b)| a != b && !(chosen(*a) && chosen(*b))) {
        return f64::INFINITY;
    }
    misranked(ranked, own).max(misranked(ranked, other))
}

/// How much a choice differs from the ranking: the most by which anything ranks above what was taken
/// before it or in its place.
fn misranked(ranked: &Ranked, taken: &[f64]) -> f64 {
    let score = |at: usize| ranked.scores.get(at).copied().flatten();
    let taken: Vec<usize> = taken.iter().map(|at| *at as usize).collect();
    let taken: Vec<usize> = taken.into_iter().filter(|at| *at < ranked.scores.len()).collect();
    // Where it took what took no part, an earlier choice went the other way, and what takes part here
    // may not have there.
    let apart = taken.iter().any(|at| score(*at).is_none());
    let left = (0..ranked.scores.len()).filter(|at| !apart && !taken.contains(at));
    let left: Vec<usize> = left.collect();
    let above = taken.iter().enumerate().filter_map(|(place, at)| {
        let behind = taken[place + 1..].iter().chain(&left).filter_map(|at| score(*at));
        Some(behind.fold(f64::NEG_INFINITY, f64::max) - score(*at)?)
    });
    above.fold(if apart { ranked.margin } else { 0.0 }, f64::max)
}

/// What moving the inputs by this part changes of what is ranked, at most, and at least.
fn score_change(
    ranked: Option<&Vec<Option<Ranked>>>,
    moved: Option<&Vec<Option<Ranked>>>,
    part: f64,
) -> f64 {
    let rows = ranked.into_iter().flatten().zip(moved.into_iter().flatten());
    let change = rows.filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
    let change = change.flat_map(|(a, b)| a.scores.iter().zip(&b.scores));
    let change = change.filter_map(|(a, b)| Some(((*a)?, (*b)?)));
    let change = change.map(|(a, b)| (a - b).abs() + (LEAST * part + REORDERED) * a.abs());
    change.filter(|c| c.is_finite()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::dtype::DType;

    fn reading(launch: usize, indices: [&str; 2], dtype: DType, rows: &[&[f64]]) -> Reading {
        Reading {
            launch,
            param: 0,
            given: None,
            indices: indices.map(Name::from).to_vec(),
            dims: vec![rows.len() as u64, rows[0].len() as u64],
            encoding: dtype.into(),
            numbers: rows.concat(),
        }
    }

    fn pair(first: &str, second: &str, indices: [(&str, &str); 2]) -> Pair {
        let indices = indices.map(|(own, other)| (own.into(), other.into())).to_vec();
        Pair { first: first.into(), second: second.into(), indices }
    }

    fn seen(values: Vec<(&str, Reading)>, scores: &[[f64; 4]]) -> CallSeen {
        let ranked = |row: &[f64; 4]| {
            let mut order = [0, 1, 2, 3];
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let [last, left] = [order[1], order[2]].map(|at| row[at]);
            let taken = order[..2].iter().map(|at| *at as i32).collect();
            let scores = row.iter().map(|s| (*s >= 0.0).then_some(*s)).collect();
            Some(Ranked { scores, margin: 0.25, cut: last - left, taken })
        };
        let ranked = [("chosen".into(), scores.iter().map(ranked).collect())].into();
        let values = values.into_iter().map(|(name, r)| (name.into(), r)).collect();
        CallSeen { values, ranked }
    }

    fn judged([first, second, moved]: &[CallSeen; 3], pairs: &[Pair]) -> Judged {
        judge(Three { first, second, moved, part: 0.0, pairs }, &|_, _| 0.0)
    }

    /// The choice and what comes of it.
    fn both() -> [Pair; 2] {
        let choice = pair("c", "chosen", [("s", "s"), ("k", "k")]);
        [choice, pair("y", "z", [("s", "s"), ("E", "D")])]
    }

    /// Two rows that choose two of four, and what comes of it: the first file's row 1 chooses 2, the
    /// second's 1. Moving the inputs moves scores by 0.01 and results by 0.001.
    fn chosen(scores: [f64; 4], results: [f64; 2]) -> Judged {
        judged(&choosing(scores, results), &both())
    }

    fn choosing(scores: [f64; 4], results: [f64; 2]) -> [CallSeen; 3] {
        let i32s = |name: &'static str, rows: [&[f64]; 2]| {
            (name, reading(3, ["s", "k"], DType::I32, &rows))
        };
        let f32s = |name: &'static str, width: &str, rows: [f64; 2]| {
            let [a, b] = rows.map(|x| [x, 1.0]);
            (name, reading(4, ["s", width], DType::F32, &[&a, &b]))
        };
        let near = [0.9, 0.8, 0.1, 0.1];
        let up = |row: [f64; 4]| row.map(|s| if s < 0.0 { s } else { s + 0.01 });
        let first = [i32s("c", [&[0.0, 1.0], &[0.0, 2.0]]), f32s("y", "D", results)];
        let own = || i32s("chosen", [&[0.0, 1.0], &[0.0, 1.0]]);
        [
            seen(first.into(), &[]),
            seen(vec![own(), f32s("z", "E", [0.5, 0.5])], &[near, scores]),
            seen(vec![own(), f32s("z", "E", [0.501, 0.501])], &[up(near), up(scores)]),
        ]
    }

    #[test]
    fn choices_are_turned_by_small_gaps_alone() {
        let near = chosen([0.9, 0.52, 0.5, 0.1], [0.5, 0.9]);
        assert!(near.beyond.is_none() && near.turned == 1, "its row is left out behind the choice");
        let far = chosen([0.9, 0.62, 0.5, 0.1], [0.5, 0.5]);
        let beyond = far.beyond.map(|b| (b.names[0].to_string(), b.position, b.numbers));
        assert_eq!(beyond, Some(("c".into(), vec![1, 1], [2.0, 1.0])));
        // What took no part was left by an earlier choice, by a gap of 0.25.
        let shut = chosen([0.9, 0.52, -1.0, 0.1], [0.5, 0.5]);
        assert!(shut.beyond.is_some_and(|b| b.error == 0.25));
    }

    #[test]
    fn what_one_choice_moves_to_another_place_is_not_misranked() {
        let scores = [0.9, -1.0, 0.5, 0.52, 0.2, 0.1].map(|s| (s >= 0.0).then_some(s)).to_vec();
        let ranked = Ranked { scores, margin: 0.01, cut: 0.3, taken: vec![0, 3, 2] };
        let gap = |own: [f64; 4], other: [f64; 4]| (100.0 * gap(&ranked, &own, &other)).round();
        let second = [0.0, 3.0, 2.0, 7.0];
        assert_eq!(gap([0.0, 2.0, 3.0, 7.0], second), 2.0, "two that are near change places");
        assert_eq!(gap([0.0, 1.0, 3.0, 7.0], second), 1.0, "of a group that was as near");
        assert_eq!(gap([1.0, 4.0, 5.0, 7.0], second), 1.0, "and all others of another");
        assert_eq!(gap([1.0, 5.0, 4.0, 7.0], second), 10.0, "in their order");
        assert_eq!(gap([0.0, 3.0, 5.0, 7.0], second), 40.0, "one that is left is far above");
        assert_eq!(gap(second, [0.0, 3.0, 5.0, 7.0]), 40.0, "whoever took the other");
        assert_eq!(gap([0.0, 3.0, 2.0, 8.0], second), f64::INFINITY, "none was to choose");
    }

    #[test]
    fn rows_near_to_a_choice_that_one_file_keeps_to_itself_may_turn() {
        let (close, clear) = ([0.9, 0.52, 0.5, 0.1], [0.9, 0.62, 0.5, 0.1]);
        let results = |scores, results| judged(&choosing(scores, results), &both()[1..]);
        let near = results(close, [0.5, 0.9]);
        assert!(near.beyond.is_none() && near.turned == 1);
        let same = results(close, [0.5, 0.5]);
        assert!(same.beyond.is_none() && same.turned == 0, "what is not apart is no turn");
        let position = |judged: Judged| judged.beyond.map(|b| b.position);
        assert_eq!(position(results(clear, [0.5, 0.9])), Some(vec![1, 0]));
        assert_eq!(position(results(close, [0.9, 0.9])), Some(vec![0, 0]), "another row");
        let mut early = choosing(close, [0.5, 0.9]);
        early[1].values.get_mut("z").unwrap().launch = 2;
        assert_eq!(position(judged(&early, &both()[1..])), Some(vec![1, 0]), "before it chose");
    }

    #[test]
    fn numbers_may_be_as_far_apart_as_rounding_moves_them() {
        let near = chosen([0.9, 0.5, 0.5, 0.1], [0.504, 0.5]);
        assert!(near.beyond.is_none() && 0.5 < near.worst && near.worst < 1.0, "{}", near.worst);
        let far = chosen([0.9, 0.5, 0.5, 0.1], [0.51, 0.5]);
        let beyond = far.beyond.map(|b| (b.names[1].to_string(), b.position, b.beyond, b.of));
        assert_eq!(beyond, Some(("z".into(), vec![0, 0], 1, 4)));
        let none = chosen([0.9, 0.5, 0.5, 0.1], [f64::NAN, 0.5]);
        assert!(none.beyond.is_some_and(|b| b.error == f64::INFINITY));
    }

    #[test]
    fn axes_are_taken_in_the_first_files_order() {
        let shape = |indices: [&str; 3], dims: [u64; 3], numbers: Vec<f64>| Reading {
            indices: indices.map(Name::from).to_vec(),
            dims: dims.to_vec(),
            numbers,
            ..reading(0, ["s", "k"], DType::F32, &[&[0.0]])
        };
        let first = shape(["s", "h", "d"], [1, 2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let second = || shape(["s", "e", "g"], [1, 3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let indices = [("s", "s"), ("e", "d"), ("g", "h")];
        let pair = Pair {
            first: "x".into(),
            second: "x".into(),
            indices: indices.map(|(own, other)| (own.into(), other.into())).to_vec(),
        };
        let [first, second, moved] = [first, second(), second()].map(|r| seen(vec![("x", r)], &[]));
        let three =
            Three { first: &first, second: &second, moved: &moved, part: 0.0, pairs: &[pair] };
        let judged = judge(three, &|_, _| 0.0);
        assert_eq!((judged.values, judged.worst, judged.beyond.is_none()), (1, 0.0, true));
    }
}
