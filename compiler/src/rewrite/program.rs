//! A whole program rewritten, each distinct block once, for every step that its plan tells apart.

use super::choose::{Block, Chosen, Plan, laws};
use super::cost::Point;
use super::law::Law;
use super::saturate::Stop;
use check::{Certificate, CheckError, check, check_pair};
use ir::dim::Name;
use ir::error::IrError;
use ir::graph::Graph;
use ir::graph::program::Program;
use std::fmt;
use std::time::{Duration, Instant};
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
    /// A term of a block that is no graph.
    pub fn of_term(block: &Name, error: IrError) -> RewriteError {
        RewriteError::Graph { block: block.clone(), error: Box::new(error) }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            RewriteError::Unequal { error, .. } if error.is_of_source() => {
                "it is tried at small extents: bound rows by `iota {start = EXTENT - 1}`, no number"
            }
            _ => "report it with the model's config.json; `-C rules=-NAME` leaves a law out",
        }
    }
}

/// A block that has the best form found until a limit was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The block.
    pub block: Name,
    /// The limit.
    pub stop: Stop,
    /// E-nodes when it was met.
    pub e_nodes: usize,
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limited { block, stop, e_nodes } = self;
        write!(
            f,
            "block @{block}: rewriting met its {} at {e_nodes} e-nodes; the best graph found until \
             then is used",
            stop.name()
        )
    }
}

/// Seed of the evaluation in each compilation.
const SEED: u64 = 1;

/// A program whose blocks are saturated, to be written in the form of one step or another.
pub struct Rewriter<'a> {
    program: &'a Program,
    /// In the order of the program's.
    blocks: Vec<Rewriting<'a>>,
}

/// A block, and the forms chosen of it so far. One that is no term stays as it is.
struct Rewriting<'a> {
    source: &'a Graph,
    /// How often a step calls it.
    calls: f64,
    block: Option<Block<'a>>,
    /// How long saturating it took.
    took: Duration,
    forms: Vec<Chosen>,
}

/// A form of a program: for each block, which of those known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<usize>);

impl<'a> Rewriter<'a> {
    /// Saturates every block with the laws of a plan.
    pub fn new(program: &'a Program, plan: &Plan<'a>) -> Rewriter<'a> {
        Rewriter::with_laws(program, plan, &|| laws(plan))
    }

    /// [`Rewriter::new`] with these laws instead of those that the plan allows.
    pub fn with_laws(
        program: &'a Program,
        plan: &Plan<'a>,
        laws: &dyn Fn() -> Vec<Law>,
    ) -> Rewriter<'a> {
        let calls = program.entries.iter().flat_map(|e| &e.calls);
        let rewriting = |source: &'a Graph| {
            let start = Instant::now();
            let block = Block::with_laws(source, plan.clone(), laws());
            let took = start.elapsed();
            let calls = calls.clone().filter(|c| c.block == source.name).count() as f64;
            Rewriting { source, calls, block, took, forms: vec![] }
        };
        Rewriter { program, blocks: program.blocks.iter().map(rewriting).collect() }
    }

    /// The form for a step, known or new.
    ///
    /// Errors: E0284.
    pub fn at(&mut self, point: Point) -> Result<Form, RewriteError> {
        self.blocks.iter_mut().map(|block| block.at(point)).collect::<Result<_, _>>().map(Form)
    }

    /// Nanoseconds of a form in a step, by the cost model.
    pub fn price_ns(&self, form: &Form, point: Point) -> f64 {
        let of = |(rewriting, at): (&Rewriting, &usize)| match &rewriting.block {
            Some(block) => rewriting.calls * block.price(&rewriting.forms[*at], point),
            None => 0.0,
        };
        self.blocks.iter().zip(&form.0).map(of).sum()
    }

    /// A block, saturated, with how long that took, and what it is in forms of the program, each
    /// once: by its position. `None` for one that cannot be stated as terms.
    pub fn block<'f>(
        &mut self,
        at: usize,
        of: impl Iterator<Item = &'f Form>,
    ) -> Option<(&mut Block<'a>, Duration, Vec<&Chosen>)> {
        let Rewriting { block, took, forms, .. } = self.blocks.get_mut(at)?;
        let mut used: Vec<usize> = vec![];
        for form in of.filter_map(|form| form.0.get(at)) {
            if !used.contains(form) {
                used.push(*form);
            }
        }
        let chosen = used.into_iter().filter_map(|form| forms.get(form)).collect();
        Some((block.as_mut()?, *took, chosen))
    }

    /// A block in a form, with the nanoseconds of one call of it in a step: by its position in the
    /// program. `None` for one that cannot be stated as terms.
    pub fn block_in(&self, form: &Form, at: usize, point: Point) -> Option<(&Graph, f64)> {
        let Rewriting { block, forms, .. } = self.blocks.get(at)?;
        let (block, chosen) = (block.as_ref()?, forms.get(*form.0.get(at)?)?);
        Some((&chosen.graph, block.price(chosen, point)))
    }

    /// The program in a form.
    pub fn program(&self, form: &Form) -> Program {
        let mut program = self.program.clone();
        for ((block, rewriting), at) in program.blocks.iter_mut().zip(&self.blocks).zip(&form.0) {
            if let Some(chosen) = rewriting.forms.get(*at) {
                *block = chosen.graph.clone();
            }
        }
        program
    }

    /// Of each block and each form of it that was chosen for some step.
    pub fn certificates(&self) -> Vec<Certificate> {
        let of = |rewriting: &Rewriting| match rewriting.block {
            Some(_) => rewriting.forms.iter().map(|c| c.certificate.clone()).collect(),
            None => vec![Certificate { source: rewriting.source.clone(), steps: vec![] }],
        };
        self.blocks.iter().flat_map(of).collect()
    }

    /// Blocks whose saturation met a limit.
    pub fn limited(&self) -> Vec<Limited> {
        let of = |rewriting: &Rewriting| {
            let (stop, e_nodes) = rewriting.block.as_ref()?.size();
            let block = rewriting.source.name.clone();
            (stop != Stop::Saturated).then_some(Limited { block, stop, e_nodes })
        };
        self.blocks.iter().filter_map(of).collect()
    }
}

impl Rewriting<'_> {
    fn at(&mut self, point: Point) -> Result<usize, RewriteError> {
        let Some(block) = &mut self.block else { return Ok(0) };
        let name = &self.source.name;
        let no_graph = |error| RewriteError::of_term(name, error);
        let (graph, choice) = block.extract(point).map_err(no_graph)?;
        if let Some(at) = self.forms.iter().position(|known| known.graph == graph) {
            return Ok(at);
        }
        let chosen = block.account(point, graph, choice).map_err(no_graph)?;
        let unequal = |error| RewriteError::Unequal { block: name.clone(), error: Box::new(error) };
        equal(&chosen.certificate).map_err(unequal)?;
        self.forms.push(chosen);
        Ok(self.forms.len() - 1)
    }
}

/// Evaluates source and choice, and where they differ every step between them.
fn equal(certificate: &Certificate) -> Result<(), CheckError> {
    let (source, chosen) = (&certificate.source, certificate.chosen());
    check_pair(source, chosen, certificate.tag(), SEED)
        .or_else(|error| check(certificate, SEED).and(Err(error)))
}
