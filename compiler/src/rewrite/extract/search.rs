//! Local search from a choice.

use super::greedy::Greedy;
use super::problem::Problem;
use std::collections::BTreeMap;

/// Moves that may pay together only: all classes that are views of one merged product.
pub(super) fn joint_moves(problem: &Problem) -> Vec<Vec<(usize, usize)>> {
    let mut parts: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, class, at) in views(problem, "slice") {
        parts.entry(of).or_default().push((class, at));
    }
    let mut split: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, class, at) in views(problem, "split") {
        split.entry(of).or_default().push((class, at));
    }
    let groups = parts.into_values().filter(|group| group.len() > 1);
    groups
        .map(|group| {
            let further = group.iter().filter_map(|(class, _)| split.get(class)).flatten().copied();
            group.iter().copied().chain(further.collect::<Vec<_>>()).collect()
        })
        .collect()
}

/// Views by an op: of which class, in which class, at which place in it.
fn views(problem: &Problem, op: &str) -> Vec<(usize, usize, usize)> {
    let mut found = vec![];
    for (class, nodes) in problem.nodes.iter().enumerate() {
        for (at, node) in nodes.iter().enumerate() {
            let (true, Some((_, [of]))) = (node.term.op() == Some(op), node.term.parts()) else {
                continue;
            };
            if let Ok(of) = problem.ids.binary_search(&problem.egraph.find(*of)) {
                found.push((of, class, at));
            }
        }
    }
    found
}

/// Moves from a choice as long as one makes it better.
pub(super) struct Search<'p> {
    pub(super) problem: &'p Problem<'p>,
    pub(super) upward: &'p [usize],
    pub(super) whole: &'p [bool],
    pub(super) joint: Vec<Vec<(usize, usize)>>,
    pub(super) choice: Vec<Option<usize>>,
    pub(super) price: f64,
}

/// Share of the whole price from which on a class is worth doing without.
const DEAR: f64 = 1e-3;
/// Share of the whole price that a move must save.
const SAVED: f64 = 1e-9;

impl Search<'_> {
    pub(super) fn run(&mut self) {
        loop {
            let before = self.price;
            // Classes that are not used are as they would cost least beside those that are.
            self.choice = self.around(None).unwrap_or_else(|| self.choice.clone());
            self.single();
            if self.price >= before && !self.without() {
                return;
            }
        }
    }

    /// Tries every other e-node of every class, and moves that pay together.
    fn single(&mut self) {
        let problem = self.problem;
        let single = problem.used(&self.choice).into_iter().flat_map(|class| {
            let nodes = 0..problem.nodes[class].len();
            nodes.filter(move |_| problem.nodes[class].len() > 1).map(move |at| vec![(class, at)])
        });
        let moves: Vec<Vec<(usize, usize)>> = self.joint.iter().cloned().chain(single).collect();
        for change in moves {
            let old: Vec<Option<usize>> =
                change.iter().map(|(class, _)| self.choice[*class]).collect();
            if !problem.may_pay(&change, &old) {
                continue;
            }
            change.iter().for_each(|(class, at)| self.choice[*class] = Some(*at));
            match problem.price(&self.choice, self.price * (1.0 - SAVED)) {
                Some(better) => self.price = better,
                None => {
                    let pairs = change.iter().zip(&old);
                    pairs.for_each(|((class, _), old)| self.choice[*class] = *old);
                }
            }
        }
    }

    /// Tries to do without a dear class. Whether that was better.
    fn without(&mut self) -> bool {
        let price =
            |class: usize| self.choice[class].map_or(0.0, |at| self.problem.nodes[class][at].price);
        let mut dear = self.problem.used(&self.choice);
        dear.retain(|class| price(*class) > DEAR * self.price);
        for class in dear {
            let Some(choice) = self.around(Some(class)) else { continue };
            if let Some(better) = self.problem.price(&choice, self.price * (1.0 - SAVED)) {
                (self.choice, self.price) = (choice, better);
                return true;
            }
        }
        false
    }

    /// The best choice where classes that are used cost nothing; without one class, and what is
    /// used for it alone. `None` where the root needs it.
    fn around(&self, without: Option<usize>) -> Option<Vec<Option<usize>>> {
        let problem = self.problem;
        let mut greedy = Greedy::new(problem, self.whole);
        let mut open = vec![false; problem.ids.len()];
        self.upward.iter().for_each(|class| open[*class] = true);
        let used = problem.used_without(&self.choice, without);
        let above = without.map(|class| problem.above(&self.choice, &used, class));
        for class in used {
            let is_above = above.as_ref().is_some_and(|above| above[class]);
            if let (false, Some(at)) = (is_above, self.choice[class]) {
                greedy.give(class, at);
                open[class] = false;
            }
        }
        without.into_iter().for_each(|class| open[class] = false);
        greedy.run(self.upward, &open);
        greedy.best[problem.root].as_ref()?;
        let found = greedy.best.into_iter().zip(&self.choice);
        Some(found.map(|(best, old)| best.map_or(*old, |b| Some(b.node))).collect())
    }
}
