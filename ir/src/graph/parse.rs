//! Text to graphs and programs, reporting every error with its place.
//!
//! ```text
//! graph   = "graph" @name "(" [ param { "," param } ] ")" [ "->" types ] header
//!           "{" { node } [ "return" values ] "}"
//! param   = [ "weight" | "state" ] %name ":" type
//! header  = [ "params" bounds ] [ "where" bounds ]
//!           [ "index" name "=" dim { "," name "=" dim } ]
//! type    = encoding "[" [ index { "," index } ] "]"
//! node    = values "=" op ( [ values ] | "{" expr "}" ) [ "where" %mask ]
//!           [ "{" key "=" attr { "," key "=" attr } "}" ] ":" types
//! file    = { graph } program
//! program = "program" @name [ "params" bounds ] [ "where" bounds ]
//!           "{" { weight | state | entry } "}"
//! weight  = "weight" @name ":" encoding dims "=" ( "tensor" | "stack" ) names [ "scales" names ]
//!           "of" dims "at" integer "strides" dims
//! state   = "state" @name ":" encoding dims ( "rows" | "ring" integer "+" integer | "carry" )
//!           "layers" integer
//! entry   = "entry" @name "(" [ input { "," input } ] ")" "{" { call } [ "return" values ] "}"
//! input   = %name ":" dtype "[" [ dim { "," dim } ] "]"
//! call    = [ values "=" ] "call" @block "(" [ arg { "," arg } ] ")" "on" name
//! arg     = %name | @weight | @state "[" integer "]"
//! dims    = "[" [ integer { "," integer } ] "]"
//! ```

mod node;
mod program;

use super::builder::GraphBuilder;
use super::error::GraphError;
use super::program::Program;
use super::{Graph, ParamKind, Type, ValueId};
use crate::dim::{Dim, Name, Symbols};
use crate::error::{IrError, Span};
use crate::text::{Bad, Parse, Parser, TokenKind};
use std::collections::{HashMap, HashSet};

/// Reads one graph.
///
/// Errors: every one of the text, in its order, each with a span.
pub fn parse_graph(text: &str) -> Result<Graph, Vec<IrError>> {
    let mut parser = Parser::new(text);
    let parsed = graph(&mut parser);
    if !parser.at_end() && !parser.has_errors() {
        let _ = parser.unexpected::<()>("the end");
    }
    let errors = parser.into_errors();
    match parsed {
        Ok(graph) if errors.is_empty() => Ok(graph),
        _ => Err(errors),
    }
}

/// Reads the blocks of a program and the program.
///
/// Errors: every one of the text, in its order, each with a span; whether calls fit their blocks
/// is for [`Program::verify`].
pub fn parse_program(text: &str) -> Result<Program, Vec<IrError>> {
    let mut parser = Parser::new(text);
    let parsed = program::file(&mut parser);
    let errors = parser.into_errors();
    match parsed {
        Ok(program) if errors.is_empty() => Ok(program),
        _ => Err(errors),
    }
}

/// A graph being read.
struct Reader {
    builder: GraphBuilder,
    values: HashMap<Name, ValueId>,
    /// Values of lines that could not be read: using them is no further error.
    lost: HashSet<Name>,
}

struct Param {
    name: Name,
    kind: ParamKind,
    ty: Type,
    span: Span,
}

/// A graph, from the word `graph` to its closing brace. On a broken header it stops.
fn graph(p: &mut Parser<'_>) -> Parse<Graph> {
    p.expect("graph")?;
    let name = p.global()?;
    let params = p.list("(", ")", param)?;
    let results = if p.eat("->") { types(p)? } else { vec![] };
    let mut reader = Reader {
        builder: GraphBuilder::new(name.text),
        values: HashMap::new(),
        lost: HashSet::new(),
    };
    let symbols = symbols(p)?;
    symbols.into_iter().for_each(|(name, symbol)| reader.builder.symbol(&name, symbol));
    reader.report(p, name.span);
    if p.eat("index") {
        indices(p, &mut reader)?;
    }
    for Param { name, kind, ty, span } in params {
        let id = reader.builder.param(&name, kind, ty);
        reader.values.entry(name).or_insert(id);
        reader.report(p, span);
    }
    p.expect("{")?;
    let mut outputs = vec![];
    while !p.eat("}") {
        if p.at_end() {
            // Text on one line is skipped as a whole after an error in it.
            return if p.has_errors() { Err(Bad) } else { p.unexpected("`}`") };
        }
        let mark = p.mark();
        let read = match p.eat("return") {
            true => outputs_of(p, &mut reader, &results).map(|found| outputs = found),
            false => node::read(p, &mut reader),
        };
        if read.is_err() {
            node::lose_line(p, &mut reader, mark);
        }
    }
    if outputs.len() != results.len() && !p.has_errors() {
        let (found, expected) = (outputs.len(), results.len());
        let count = GraphError::ResultCount { op: "return", found, expected };
        return p.error(name.span, count.into());
    }
    outputs.into_iter().for_each(|id| reader.builder.output(id));
    reader.builder.finish().map_err(|_| Bad)
}

impl Reader {
    /// Gives errors of declarations their place.
    fn report(&mut self, p: &mut Parser<'_>, span: Span) {
        for error in self.builder.take_errors() {
            let _ = p.error::<()>(span, error.kind);
        }
    }

    /// The value of a name; `None` for one of a lost line.
    fn value(&self, p: &mut Parser<'_>) -> Parse<Option<ValueId>> {
        let token = p.value()?;
        match self.values.get(token.text) {
            Some(id) => Ok(Some(*id)),
            None if self.lost.contains(token.text) => Ok(None),
            None => {
                let name = token.text.into();
                p.error(token.span, GraphError::Unknown { what: "value", name }.into())
            }
        }
    }
}

fn param(p: &mut Parser<'_>) -> Parse<Param> {
    let start = p.peek().span;
    let kind = match p.peek() {
        t if t.kind != TokenKind::Word => ParamKind::Input,
        t if t.text == "weight" => ParamKind::Weight,
        t if t.text == "state" => ParamKind::State,
        _ => return p.unexpected("`weight`, `state` or a value (`%name`)"),
    };
    if kind != ParamKind::Input {
        p.advance();
    }
    let name = p.value()?.text.into();
    p.expect(":")?;
    let ty = ty(p)?;
    Ok(Param { name, kind, ty, span: p.span_since(start) })
}

fn ty(p: &mut Parser<'_>) -> Parse<Type> {
    let encoding = p.encoding()?;
    let indices = p.list("[", "]", |p| Ok(p.word()?.text.into()))?;
    Ok(Type { encoding, indices })
}

fn types(p: &mut Parser<'_>) -> Parse<Vec<Type>> {
    let mut types = vec![ty(p)?];
    while p.eat(",") {
        types.push(ty(p)?);
    }
    Ok(types)
}

fn symbols(p: &mut Parser<'_>) -> Parse<Symbols> {
    let mut symbols = Symbols::new();
    for word in ["params", "where"] {
        let start = p.peek().span;
        if !p.eat(word) {
            continue;
        }
        for (name, symbol) in p.bounds()? {
            if symbols.insert(name.clone(), symbol).is_some() {
                let span = p.span_since(start);
                return p.error(span, GraphError::Duplicate { what: "symbol", name }.into());
            }
        }
    }
    Ok(symbols)
}

fn indices(p: &mut Parser<'_>, reader: &mut Reader) -> Parse<()> {
    loop {
        let name = p.word()?;
        p.expect("=")?;
        let extent: Dim = p.dim()?;
        reader.builder.index(name.text, extent);
        let span = p.span_since(name.span);
        reader.report(p, span);
        if !p.eat(",") {
            return Ok(());
        }
    }
}

fn outputs_of(p: &mut Parser<'_>, reader: &mut Reader, results: &[Type]) -> Parse<Vec<ValueId>> {
    let mut outputs = vec![];
    loop {
        let span = p.peek().span;
        if let Some(id) = reader.value(p)? {
            let inferred = reader.builder.ty(id).clone();
            match results.get(outputs.len()) {
                Some(declared) if *declared != inferred => {
                    let declared = declared.clone();
                    let wrong = GraphError::ResultType { declared, inferred };
                    let _ = p.error::<()>(span, wrong.into());
                }
                _ => {}
            }
            outputs.push(id);
        }
        if !p.eat(",") {
            return Ok(outputs);
        }
    }
}
