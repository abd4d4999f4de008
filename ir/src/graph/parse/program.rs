//! Programs.

use super::{graph, symbols};
use crate::dim::Name;
use crate::graph::program::{
    Arg, Call, Entry, Input, Program, Source, State, StateKind, View, Weight,
};
use crate::text::{Bad, Parse, Parser, TokenKind};

/// Blocks, and the program at the end.
pub(super) fn file(p: &mut Parser<'_>) -> Parse<Program> {
    let mut blocks = vec![];
    let mut broken = false;
    while !p.sees("program") {
        let mark = p.mark();
        match graph(p) {
            Ok(block) => blocks.push(block),
            Err(Bad) if p.at_end() => return Err(Bad),
            Err(Bad) => {
                broken = true;
                p.recover(mark);
                while !(p.sees("graph") || p.sees("program") || p.at_end()) {
                    p.recover(p.mark());
                }
            }
        }
    }
    let mut program = program(p)?;
    program.blocks = blocks;
    match (p.at_end(), broken) {
        (true, false) => Ok(program),
        (true, true) => Err(Bad),
        (false, _) => p.unexpected("the end"),
    }
}

fn program(p: &mut Parser<'_>) -> Parse<Program> {
    p.expect("program")?;
    let name = p.global()?.text.into();
    let symbols = symbols(p)?;
    p.expect("{")?;
    let (blocks, weights, states, entries) = (vec![], vec![], vec![], vec![]);
    let mut program = Program { name, symbols, blocks, weights, states, entries };
    let mut broken = false;
    while !p.eat("}") {
        let mark = p.mark();
        let read = match p.peek().text {
            "weight" => weight(p).map(|w| program.weights.push(w)),
            "state" => state(p).map(|s| program.states.push(s)),
            "entry" => entry(p).map(|e| program.entries.push(e)),
            _ => p.unexpected("`weight`, `state`, `entry` or `}`"),
        };
        if read.is_err() {
            broken = true;
            if p.at_end() {
                return Err(Bad);
            }
            p.recover(mark);
        }
    }
    if broken { Err(Bad) } else { Ok(program) }
}

fn integers(p: &mut Parser<'_>) -> Parse<Vec<i64>> {
    p.list("[", "]", Parser::integer)
}

fn words(p: &mut Parser<'_>) -> Parse<Vec<Name>> {
    let mut names = vec![p.word()?.text.into()];
    while p.eat(",") {
        names.push(p.word()?.text.into());
    }
    Ok(names)
}

fn weight(p: &mut Parser<'_>) -> Parse<Weight> {
    p.expect("weight")?;
    let name = p.global()?.text.into();
    p.expect(":")?;
    let encoding = p.encoding()?;
    let dims = integers(p)?;
    p.expect("=")?;
    let stacked = p.eat("stack");
    if !stacked {
        p.expect("tensor")?;
    }
    let tensors = words(p)?;
    let scales = if p.eat("scales") { words(p)? } else { vec![] };
    p.expect("of")?;
    let stored_dims = integers(p)?;
    p.expect("at")?;
    let offset = p.integer()?;
    p.expect("strides")?;
    let view = View { offset, strides: integers(p)? };
    let source = Source { tensors, scales, stacked, stored_dims, view };
    Ok(Weight { name, encoding, dims, source })
}

fn state(p: &mut Parser<'_>) -> Parse<State> {
    p.expect("state")?;
    let name = p.global()?.text.into();
    p.expect(":")?;
    let encoding = p.encoding()?;
    let dims = integers(p)?;
    let kind = match p.peek().text {
        "rows" => StateKind::Rows,
        "ring" => StateKind::Ring { window: 0, slack: 0 },
        "carry" => StateKind::Carry,
        _ => return p.unexpected("`rows`, `ring` or `carry`"),
    };
    p.advance();
    let kind = match kind {
        StateKind::Ring { .. } => {
            let window = p.integer()?;
            p.expect("+")?;
            StateKind::Ring { window, slack: p.integer()? }
        }
        kind => kind,
    };
    p.expect("layers")?;
    Ok(State { name, kind, encoding, dims, layers: p.small()? })
}

fn entry(p: &mut Parser<'_>) -> Parse<Entry> {
    p.expect("entry")?;
    let name = p.global()?.text.into();
    let inputs = p.list("(", ")", |p| {
        let name = p.value()?.text.into();
        p.expect(":")?;
        let dtype = p.dtype()?;
        Ok(Input { name, dtype, dims: p.list("[", "]", Parser::dim)? })
    })?;
    p.expect("{")?;
    let (mut calls, mut outputs, mut broken) = (vec![], vec![], false);
    while !p.eat("}") {
        let mark = p.mark();
        let read = match p.eat("return") {
            true => values(p).map(|names| outputs = names),
            false => call(p).map(|c| calls.push(c)),
        };
        if read.is_err() {
            broken = true;
            if p.at_end() {
                return Err(Bad);
            }
            p.recover(mark);
        }
    }
    if broken { Err(Bad) } else { Ok(Entry { name, inputs, calls, outputs }) }
}

fn values(p: &mut Parser<'_>) -> Parse<Vec<Name>> {
    let mut names = vec![p.value()?.text.into()];
    while p.eat(",") {
        names.push(p.value()?.text.into());
    }
    Ok(names)
}

fn call(p: &mut Parser<'_>) -> Parse<Call> {
    let results = if p.peek().kind == TokenKind::Value {
        let names = values(p)?;
        p.expect("=")?;
        names
    } else {
        vec![]
    };
    p.expect("call")?;
    let block = p.global()?.text.into();
    let args = p.list("(", ")", |p| {
        if p.peek().kind == TokenKind::Value {
            return Ok(Arg::Value(p.value()?.text.into()));
        }
        let name: Name = p.global()?.text.into();
        if !p.eat("[") {
            return Ok(Arg::Weight(name));
        }
        let layer = p.small()?;
        p.expect("]")?;
        Ok(Arg::State { state: name, layer })
    })?;
    p.expect("on")?;
    Ok(Call { block, args, results, place: p.word()?.text.into() })
}
