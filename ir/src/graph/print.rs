//! Canonical text of graphs and programs; [`parse`](super::parse) reads it back.

use super::program::{Arg, Call, Entry, Program, State, StateKind, Weight};
use super::{Def, Graph, Node, ParamKind, ValueId};
use crate::attr::Attr;
use crate::dim::{Sort, Symbols};
use crate::text::{attr_text, bounds_text};
use std::fmt;

/// Columns beyond which a list is written one item to a line.
const WIDTH: usize = 100;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params: Vec<String> = (0..self.params.len()).map(|i| self.param_text(i)).collect();
        let types: Vec<String> = self.outputs.iter().map(|id| self.ty(*id).to_string()).collect();
        let arrow = if types.is_empty() { "" } else { " -> " };
        let results = format!("{arrow}{}", types.join(", "));
        let start = format!("graph @{}", self.name);
        write!(f, "{start}{}{results}", listed(&params, start.len() + results.len()))?;
        write_symbols(f, &self.symbols)?;
        if !self.indices.is_empty() {
            let one = |(name, extent)| format!("{name} = {extent}");
            let all: Vec<String> = self.indices.iter().map(one).collect();
            write!(f, "\n  index {}", all.join(", "))?;
        }
        f.write_str(" {\n")?;
        for node in &self.nodes {
            writeln!(f, "  {}", self.node_text(node))?;
        }
        if !self.outputs.is_empty() {
            writeln!(f, "  return {}", self.list_text(&self.outputs))?;
        }
        f.write_str("}\n")
    }
}

/// `(a, b)`, or one to a line where it would not fit beside `rest` other columns.
fn listed(items: &[String], rest: usize) -> String {
    let line = items.join(", ");
    match rest + line.len() + 4 > WIDTH {
        true => format!("(\n    {}\n  )", items.join(",\n    ")),
        false => format!("({line})"),
    }
}

fn write_symbols(f: &mut fmt::Formatter<'_>, symbols: &Symbols) -> fmt::Result {
    let (params, others): (Symbols, Symbols) =
        symbols.iter().map(|(n, s)| (n.clone(), *s)).partition(|(_, s)| s.sort == Sort::Param);
    for (word, part) in [("params", params), ("where", others)] {
        if !part.is_empty() {
            write!(f, "\n  {word} {}", bounds_text(&part))?;
        }
    }
    Ok(())
}

impl Graph {
    fn param_text(&self, position: usize) -> String {
        let value = self.value(self.params[position]);
        let kind = match value.def {
            Def::Param(_, ParamKind::Weight) => "weight ",
            Def::Param(_, ParamKind::State) => "state ",
            Def::Param(_, ParamKind::Input) | Def::Node(..) => "",
        };
        format!("{kind}%{}: {}", value.name, value.ty)
    }

    fn list_text(&self, ids: &[ValueId]) -> String {
        let names: Vec<String> =
            ids.iter().map(|id| format!("%{}", self.value(*id).name)).collect();
        names.join(", ")
    }

    /// A node as it stands in the text, without indentation.
    pub fn node_text(&self, node: &Node) -> String {
        let operand = |i: usize| match node.operands.get(i) {
            Some(id) => format!("%{}", self.value(*id).name),
            None => format!("%?{i}"),
        };
        let mut text = format!("{} = {}", self.list_text(&node.results), node.op.name());
        let mut keyed = vec![];
        let mut expression = None;
        for (spec, attr) in node.op.0.schema().attrs.iter().zip(&node.attrs.0) {
            match attr {
                Attr::Expr(_) => expression = Some(attr_text(attr, &operand)),
                _ => keyed.push(format!("{} = {}", spec.key, attr_text(attr, &operand))),
            }
        }
        // An expression names its operands itself.
        match (expression, node.data_operands()) {
            (Some(e), _) => text += &format!(" {e}"),
            (None, []) => {}
            (None, operands) => text += &format!(" {}", self.list_text(operands)),
        }
        if let Some(mask) = node.mask() {
            text += &format!(" where %{}", self.value(mask).name);
        }
        if !keyed.is_empty() {
            text += &format!(" {{{}}}", keyed.join(", "));
        }
        let types: Vec<String> = node.results.iter().map(|id| self.ty(*id).to_string()).collect();
        format!("{text} : {}", types.join(", "))
    }
}

impl fmt::Display for Program {
    /// The blocks, and then the program that calls them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for block in &self.blocks {
            writeln!(f, "{block}")?;
        }
        write!(f, "program @{}", self.name)?;
        write_symbols(f, &self.symbols)?;
        f.write_str(" {\n")?;
        for weight in &self.weights {
            writeln!(f, "  {weight}")?;
        }
        for state in &self.states {
            writeln!(f, "  {state}")?;
        }
        for entry in &self.entries {
            write!(f, "{entry}")?;
        }
        f.write_str("}\n")
    }
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weight { name, encoding, dims, source } = self;
        write!(f, "weight @{name}: {encoding}[{}] = ", joined(dims))?;
        let tensors = if source.stacked { "stack" } else { "tensor" };
        write!(f, "{tensors} {}", joined(&source.tensors))?;
        if !source.scales.is_empty() {
            write!(f, " scales {}", joined(&source.scales))?;
        }
        let (stored, view) = (joined(&source.stored_dims), &source.view);
        write!(f, " of [{stored}] at {} strides [{}]", view.offset, joined(&view.strides))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StateKind::Rows => "rows".to_string(),
            StateKind::Ring { window, slack } => format!("ring {window} + {slack}"),
            StateKind::Carry => "carry".to_string(),
        };
        let State { name, encoding, dims, layers, .. } = self;
        write!(f, "state @{name}: {encoding}[{}] {kind} layers {layers}", joined(dims))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input =
            |i: &super::program::Input| format!("%{}: {}[{}]", i.name, i.dtype, joined(&i.dims));
        let inputs: Vec<String> = self.inputs.iter().map(input).collect();
        writeln!(f, "  entry @{}({}) {{", self.name, inputs.join(", "))?;
        for call in &self.calls {
            writeln!(f, "    {call}")?;
        }
        let outputs: Vec<String> = self.outputs.iter().map(|o| format!("%{o}")).collect();
        if !outputs.is_empty() {
            writeln!(f, "    return {}", outputs.join(", "))?;
        }
        f.write_str("  }\n")
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results: Vec<String> = self.results.iter().map(|r| format!("%{r}")).collect();
        if !results.is_empty() {
            write!(f, "{} = ", results.join(", "))?;
        }
        write!(f, "call @{}({}) on {}", self.block, joined(&self.args), self.place)
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arg::Value(name) => write!(f, "%{name}"),
            Arg::Weight(name) => write!(f, "@{name}"),
            Arg::State { state, layer } => write!(f, "@{state}[{layer}]"),
        }
    }
}
