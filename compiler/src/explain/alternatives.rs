//! Other forms of a block than the one chosen, and why they lost: each with the one difference that
//! costs it most.

use super::memory::{KeptReport, bytes_of};
use super::text::{bytes, count, time};
use super::{Asked, Counts, STATED, counts};
use crate::rewrite::choose::{Block, Chosen, Kept, Plan};
use crate::rewrite::cost::{Point, Spent, Work};
use ir::error::IrError;
use ir::graph::Graph;
use serde::Serialize;

/// A form that was not chosen.
#[derive(Clone, Debug, Serialize)]
pub struct Alternative {
    /// What it is.
    pub name: String,
    /// What it would keep.
    pub state: Vec<KeptReport>,
    /// Its nanoseconds at the same step.
    pub cost_ns: f64,
    /// What it must do.
    pub work: Counts,
    /// Why it lost, in a sentence.
    pub why: String,
}

/// Differences of cost below this part of it are none.
const EQUAL: f64 = 1e-3;

/// A form with all that it is judged by.
struct Form {
    name: String,
    state: Vec<KeptReport>,
    cost_ns: f64,
    work: Work,
    spent: Spent,
    /// Nanoseconds that holding its states is charged where they are chosen.
    holding_ns: f64,
}

/// What else there is of a block.
pub(super) struct Others<'b, 'a> {
    pub(super) block: &'b Block<'a>,
    /// All forms that a compiled plan has of it.
    pub(super) forms: &'b [&'b Chosen],
    /// The form that is best for the step.
    pub(super) best: &'b Chosen,
}

/// Other forms of a block, the best first.
///
/// Errors: a law that makes no graph.
pub(super) fn alternatives(
    graph: &Graph,
    asked: &Asked,
    chosen: &Chosen,
    others: &Others,
) -> Result<Vec<Alternative>, IrError> {
    let block = others.block;
    let own = Form::of("chosen", asked, block, chosen);
    let mut forms = other_states(graph, asked, &own)?;
    forms.extend(other_steps(asked, others, &own)?);
    let (work, spent) = chosen.source;
    let states = block.stated_states();
    let stated = Form {
        name: STATED.into(),
        state: asked.formats.kept(&states),
        cost_ns: chosen.source_ns,
        work,
        spent,
        holding_ns: block.holding_ns(&states),
    };
    if !stated.is_near(&own) {
        forms.push(stated);
    }
    forms.sort_by(|a, b| a.cost_ns.total_cmp(&b.cost_ns));
    let report = |form: Form| Alternative {
        why: form.why(&own, asked),
        name: form.name,
        state: form.state,
        cost_ns: form.cost_ns,
        work: counts(&form.work),
    };
    Ok(forms.into_iter().map(report).collect())
}

/// The best forms that keep something else.
fn other_states(graph: &Graph, asked: &Asked, own: &Form) -> Result<Vec<Form>, IrError> {
    let mut forms: Vec<Form> = vec![];
    if own.state.is_empty() {
        return Ok(forms);
    }
    for kept_as in [Kept::Auto, Kept::Expanded, Kept::Latent] {
        let plan = Plan { kept: kept_as, ..asked.plan.clone() };
        let Some(mut block) = Block::new(graph, plan) else { continue };
        let other = block.choose(asked.point)?;
        let form = Form::of("", asked, &block, &other);
        let each = bytes_of(&form.state);
        let known = |f: &Form| bytes_of(&f.state) == each;
        if !known(own) && !forms.iter().any(known) {
            forms.push(Form { name: format!("keeping {}", names(&form.state)), ..form });
        }
    }
    Ok(forms)
}

/// Forms with the same states: the best for this very step, and those that a plan has for others.
fn other_steps(asked: &Asked, others: &Others, own: &Form) -> Result<Vec<Form>, IrError> {
    let Others { block, forms, best } = others;
    let named = |form: &&Chosen| {
        let Point { batch, tokens, context } = form.point;
        let name = format!("the form for {batch} x {tokens} new tokens, context {context}");
        Ok(Form::of(&name, asked, block, &block.at(form, asked.point)?))
    };
    let mut others = vec![Form::of("the best for this step", asked, block, best)];
    others.extend(forms.iter().map(named).collect::<Result<Vec<Form>, IrError>>()?);
    let mut found: Vec<Form> = vec![];
    for form in others {
        if !form.is_near(own) && !found.iter().any(|f| f.is_near(&form)) {
            found.push(form);
        }
    }
    Ok(found)
}

fn names(state: &[KeptReport]) -> String {
    let names: Vec<&str> = state.iter().map(|s| s.name.as_str()).collect();
    names.join(" and ")
}

impl Form {
    fn of(name: &str, asked: &Asked, block: &Block, chosen: &Chosen) -> Form {
        Form {
            name: name.into(),
            state: asked.formats.kept(&block.states()),
            cost_ns: chosen.price_ns,
            work: chosen.work,
            spent: chosen.spent,
            holding_ns: block.holding_ns(&block.states()),
        }
    }

    /// Whether two forms do the same, but for trifles.
    fn is_near(&self, other: &Form) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= EQUAL * a.max(b);
        near(self.cost_ns, other.cost_ns)
            && near(self.work.flops, other.work.flops)
            && near(self.work.bytes, other.work.bytes)
            && bytes_of(&self.state) == bytes_of(&other.state)
    }

    /// Why it lost against the one that is chosen.
    fn why(&self, own: &Form, asked: &Asked) -> String {
        let held = self.holding_ns - own.holding_ns;
        let (most, ns) = self.dominating(own);
        let slower = self.cost_ns - own.cost_ns;
        let holds = bytes_of(&self.state) != bytes_of(&own.state);
        if slower > EQUAL * own.cost_ns && !(holds && held > ns) {
            let (a, b) = (time(self.cost_ns), time(own.cost_ns));
            return format!("{a} instead of {b}, most of it because it {most}");
        }
        let (a, b) = (bytes_of(&self.state), bytes_of(&own.state));
        if holds && asked.plan.kept != Kept::Auto {
            return format!("keeps {a} instead of {b} bytes of a token, which -C kv= rules out");
        }
        let Point { batch, context, .. } = asked.plan.decode;
        if holds && held > 0.0 {
            return format!(
                "keeps {a} instead of {b} bytes of a token: holding them is charged {} instead of \
                 {} at the decode point ({batch} x {context} tokens), and it takes {} instead of {}",
                time(self.holding_ns),
                time(own.holding_ns),
                time(self.cost_ns),
                time(own.cost_ns)
            );
        }
        if holds {
            return format!(
                "keeps {a} instead of {b} bytes of a token, but takes longer at the decode point \
                 ({batch} x {context} tokens), where that is settled"
            );
        }
        let (a, b) = (time(self.cost_ns), time(own.cost_ns));
        if slower < 0.0 {
            return format!(
                "{a} instead of {b}: gains less than -C form-gain= asks for, or needs further \
                 copies of weights"
            );
        }
        format!("{a} instead of {b}: no faster, or only with further copies of weights")
    }

    /// The difference that costs most, in words, and its nanoseconds.
    fn dominating(&self, own: &Form) -> (String, f64) {
        let (a, b) = (&self.work, &own.work);
        let flops = |w: &Work| count(w.flops + w.slow_flops);
        let (s, o) = (&self.spent, &own.spent);
        let differences = [
            (
                s.arithmetic - o.arithmetic,
                format!("needs {} operations instead of {}", flops(a), flops(b)),
            ),
            (
                s.weights - o.weights,
                format!(
                    "reads {} of weights instead of {}",
                    bytes(a.weight_bytes),
                    bytes(b.weight_bytes)
                ),
            ),
            (
                s.context - o.context,
                format!(
                    "moves {} of rows of the context (what is kept, and what is made of it) instead of {}",
                    bytes(a.context_bytes),
                    bytes(b.context_bytes)
                ),
            ),
            (
                s.values - o.values,
                format!(
                    "moves {} of the step's own values instead of {}",
                    bytes(super::values_bytes(a)),
                    bytes(super::values_bytes(b))
                ),
            ),
            (
                s.launches - o.launches,
                format!("launches {} kernels instead of {}", a.launches, b.launches),
            ),
        ];
        let most = differences.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        most.map_or_else(|| (String::new(), 0.0), |(ns, words)| (words, ns))
    }
}
