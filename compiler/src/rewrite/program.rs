//! A whole program rewritten, each distinct block once, for every step that its plan tells apart.

use super::choose::{Block, Plan, laws};
use super::cost::Point;
use super::law::Law;
use check::{Certificate, CheckError, check, check_pair};
use ir::dim::Name;
use ir::error::IrError;
use ir::graph::program::Program;
use thiserror::Error;

/// What a rewriting can fail by: always a mistake of a law.
#[derive(Debug, Error)]
pub enum RewriteError {
    /// A chosen term is no graph.
    #[error("block @{block}: the chosen term is no graph: {error}")]
    Graph {
        /// The block.
        block: Name,
        /// Why not.
        error: Box<IrError>,
    },
    /// A chosen graph is not equal to the source.
    #[error("block @{block} was rewritten to something else: {error}")]
    Unequal {
        /// The block.
        block: Name,
        /// The first wrong step.
        error: Box<CheckError>,
    },
}

impl RewriteError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0291", "rewriting made a term that is no graph (a mistake of latentc)"),
        ("E0292", "rewriting changed what a block computes (a mistake of latentc)"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            RewriteError::Graph { .. } => "E0291",
            RewriteError::Unequal { .. } => "E0292",
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        "report it with the model's config.json; `-C rules=-NAME` leaves a law out"
    }
}

/// A rewritten program.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// For each point asked for, in order.
    pub programs: Vec<Program>,
    /// Of each block and point that it differs for.
    pub certificates: Vec<Certificate>,
}

/// Seed of the evaluation in each compilation.
const SEED: u64 = 1;

/// Rewrites every block for each of some points.
///
/// Errors: E0291, E0292.
pub fn rewrite(
    program: &Program,
    plan: &Plan,
    points: &[Point],
) -> Result<Rewritten, RewriteError> {
    rewrite_with(program, plan, points, &|| laws(plan))
}

/// [`rewrite`] with these laws instead of those that the plan allows.
///
/// Errors: E0291, E0292.
pub fn rewrite_with(
    program: &Program,
    plan: &Plan,
    points: &[Point],
    laws: &dyn Fn() -> Vec<Law>,
) -> Result<Rewritten, RewriteError> {
    let mut programs = vec![program.clone(); points.len()];
    let mut certificates = vec![];
    for (at, source) in program.blocks.iter().enumerate() {
        let block = Block::with_laws(source, plan.clone(), laws());
        let Some(mut block) = block else { continue };
        let wrong = |error| RewriteError::Graph { block: source.name.clone(), error };
        let mut known: Vec<ir::graph::Graph> = vec![];
        for (point, rewritten) in points.iter().zip(&mut programs) {
            let chosen = block.choose(*point).map_err(|e| wrong(Box::new(e)))?;
            rewritten.blocks[at] = chosen.graph.clone();
            if known.contains(&chosen.graph) {
                continue;
            }
            equal(&chosen.certificate).map_err(|error| RewriteError::Unequal {
                block: source.name.clone(),
                error: Box::new(error),
            })?;
            known.push(chosen.graph);
            certificates.push(chosen.certificate);
        }
    }
    Ok(Rewritten { programs, certificates })
}

/// Evaluates source and choice, and where they differ every step between them.
fn equal(certificate: &Certificate) -> Result<(), CheckError> {
    let (source, chosen) = (&certificate.source, certificate.chosen());
    check_pair(source, chosen, certificate.tag(), SEED)
        .or_else(|error| check(certificate, SEED).and(Err(error)))
}
