//! Where the elements along an axis lie, from its first on.

use serde::{Deserialize, Serialize};

/// Elements a step apart. Written down as three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[i64; 3]", into = "[i64; 3]")]
pub struct Run {
    /// Distance of its first element from element 0 of the axis.
    pub first: i64,
    /// From one to the next; 0 for a single one.
    pub step: i64,
    /// How many.
    pub len: i64,
}

/// Distance of each element along an axis from element 0, as runs. Equal distances make equal
/// tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Table {
    runs: Vec<Run>,
}

impl From<[i64; 3]> for Run {
    fn from([first, step, len]: [i64; 3]) -> Run {
        Run { first, step, len }
    }
}

impl From<Run> for [i64; 3] {
    fn from(run: Run) -> [i64; 3] {
        [run.first, run.step, run.len]
    }
}

impl Table {
    /// `len` elements, each `step` from the one before.
    pub fn steps(step: i64, len: i64) -> Table {
        let step = if len > 1 { step } else { 0 };
        Table { runs: if len > 0 { vec![Run { first: 0, step, len }] } else { vec![] } }
    }

    /// Elements at these places, and the place of the first.
    pub fn of(places: impl IntoIterator<Item = i64>) -> (i64, Table) {
        let mut runs: Vec<Run> = vec![];
        let mut origin = None;
        for place in places {
            let place = place - *origin.get_or_insert(place);
            match runs.last_mut() {
                Some(run) if run.len == 1 => (run.step, run.len) = (place - run.first, 2),
                Some(run) if run.first + run.step * run.len == place => run.len += 1,
                _ => runs.push(Run { first: place, step: 0, len: 1 }),
            }
        }
        (origin.unwrap_or(0), Table { runs })
    }

    /// Number of elements.
    pub fn len(&self) -> i64 {
        self.runs.iter().map(|r| r.len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// In order, none of them empty.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Distances of some elements, in order.
    pub fn within(&self, from: i64, len: i64) -> impl Iterator<Item = i64> + '_ {
        let mut begin = 0;
        self.runs.iter().flat_map(move |r| {
            let (first, last) = ((from - begin).max(0), (from + len - begin).min(r.len));
            begin += r.len;
            (first..last).map(move |i| r.first + i * r.step)
        })
    }

    /// The step between any two neighbours, where it is one.
    pub fn step(&self) -> Option<i64> {
        if let [run] = self.runs[..] { Some(run.step) } else { None }
    }

    /// Least and greatest distance of an axis of `len` elements; `None` where it has none, or the
    /// table is not of these. All else may be asked of a table that has passed this, wherever it
    /// comes from.
    pub fn reach(&self, len: i64) -> Option<(i64, i64)> {
        let (mut least, mut most, mut elements) = (i64::MAX, i64::MIN, 0i64);
        for run in &self.runs {
            let last = run.step.checked_mul(run.len.checked_sub(1)?)?.checked_add(run.first)?;
            (least, most) = (least.min(run.first).min(last), most.max(run.first).max(last));
            elements = elements.checked_add(run.len).filter(|_| run.len > 0)?;
        }
        (elements == len && len > 0).then_some((least, most))
    }

    /// Every element's distance, in order.
    pub fn places(&self) -> impl Iterator<Item = i64> + '_ {
        self.runs.iter().flat_map(|r| (0..r.len).map(move |i| r.first + i * r.step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_distances_make_equal_tables() {
        assert_eq!(Table::of([7, 8, 9]), (7, Table::steps(1, 3)));
        assert_eq!(Table::of([7]), (7, Table::steps(5, 1)));
        assert_eq!(Table::of([3, 3]), (3, Table::steps(0, 2)));
        assert_eq!(Table::of([]), (0, Table::steps(9, 0)));
        assert_eq!(Table::of([9, 7, 5]), (9, Table::steps(-2, 3)));
    }

    #[test]
    fn tables_from_elsewhere_are_measured_before_use() {
        let table =
            |runs: &[[i64; 3]]| Table { runs: runs.iter().map(|r| Run::from(*r)).collect() };
        assert_eq!(table(&[[0, 2, 3], [9, -4, 3]]).reach(6), Some((0, 9)));
        assert_eq!(table(&[[0, 2, 3]]).reach(4), None);
        assert_eq!(table(&[]).reach(0), None);
        for absurd in [[0, 1, 0], [0, 1, -1], [0, i64::MAX, 3], [i64::MAX, 1, 2], [0, 0, i64::MIN]]
        {
            assert_eq!(table(&[absurd]).reach(absurd[2]), None, "{absurd:?}");
        }
        assert_eq!(table(&[[0, 0, i64::MAX], [0, 0, 1]]).reach(i64::MIN), None);
    }

    #[test]
    fn places_come_back() {
        for places in [vec![0, 1, 2, 64, 65, 66, 3], vec![0, 5, 6, 7], vec![0, 0, 1], vec![]] {
            let (first, table) = Table::of(places.iter().map(|p| p + 11));
            assert_eq!(first, if places.is_empty() { 0 } else { 11 });
            assert_eq!(table.places().collect::<Vec<_>>(), places);
            assert_eq!(table.len(), places.len() as i64);
            for from in 0..places.len() {
                let within: Vec<i64> = table.within(from as i64, 2).collect();
                assert_eq!(within, places[from..places.len().min(from + 2)]);
            }
            assert_eq!(table.is_empty(), places.is_empty());
        }
    }
}
