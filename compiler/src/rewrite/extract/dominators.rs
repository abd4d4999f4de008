//! Classes that every path from the root to others passes.

use super::problem::Problem;

/// Classes that every path from the root to anything below them passes, leaves without a price
/// apart: dominators with all of their descendants.
pub(super) fn stand_alone(problem: &Problem, upward: &[usize]) -> Vec<bool> {
    let count = problem.ids.len();
    let mut place = vec![usize::MAX; count];
    upward.iter().rev().enumerate().for_each(|(i, class)| place[*class] = i);
    let free =
        |class: usize| problem.nodes[class].iter().all(|n| n.children.is_empty() && n.price == 0.0);
    let dominator = dominators(problem, upward, &place);
    // An edge out of a class' subtree of dominated classes: none of the classes up to the common
    // dominator stands for all below it.
    let mut escapes = vec![0i64; count];
    for class in upward {
        for child in problem.below(*class) {
            if !free(child) {
                escapes[*class] += 1;
                escapes[dominator[child]] -= 1;
            }
        }
    }
    let mut whole = vec![false; count];
    for class in upward {
        whole[*class] = escapes[*class] == 0;
        if *class != problem.root {
            escapes[dominator[*class]] += escapes[*class];
        }
    }
    whole
}

/// The immediate dominator of each class (Cooper, Harvey, Kennedy: A Simple, Fast Dominance
/// Algorithm).
fn dominators(problem: &Problem, upward: &[usize], place: &[usize]) -> Vec<usize> {
    let mut dominator = vec![usize::MAX; problem.ids.len()];
    dominator[problem.root] = problem.root;
    let mut seen = vec![0; problem.ids.len()];
    let (mut round, mut changed) = (0, true);
    while changed {
        changed = false;
        for class in upward.iter().rev().filter(|c| **c != problem.root) {
            round += 1;
            let known = problem.parents[*class].iter().filter(|p| dominator[**p] != usize::MAX);
            let meet = |a, b| met(&dominator, place, [a, b], (&mut seen, round));
            let Some(new) = known.copied().reduce(meet) else { continue };
            changed |= std::mem::replace(&mut dominator[*class], new) != new;
        }
    }
    dominator
}

/// The nearest common dominator of `a`, which already is one of several classes, and `b`. Classes
/// on the ways from these up are marked: from such a one on, the way to `a` is known.
fn met(
    dominator: &[usize],
    place: &[usize],
    [mut a, mut b]: [usize; 2],
    (seen, round): (&mut [usize], usize),
) -> usize {
    while a != b {
        if place[a] > place[b] {
            a = dominator[a];
        } else if std::mem::replace(&mut seen[b], round) == round {
            return a;
        } else {
            b = dominator[b];
        }
    }
    a
}
