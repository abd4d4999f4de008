//! One line of a graph.

use super::{Reader, types};
use crate::attr::{Attr, AttrKind, Attrs};
use crate::dim::Name;
use crate::error::Span;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::OpRef;
use crate::ops;
use crate::text::{Bad, Parse, Parser, TokenKind};

/// What a line says before it is checked.
struct Line {
    operands: Vec<Option<ValueId>>,
    mask: Option<Option<ValueId>>,
    attrs: Vec<Option<Attr>>,
    declared: Vec<Type>,
}

/// Reads a line and adds its node. `Err` means that the rest of the line is still there.
pub(super) fn read(p: &mut Parser<'_>, reader: &mut Reader) -> Parse<()> {
    let start = p.peek().span;
    let results = results(p)?;
    let line = op(p).and_then(|op| Ok((op, line(p, reader, op)?)));
    let Ok((op, line)) = line else {
        reader.lost.extend(results.into_iter().map(|(name, _)| name));
        return Err(Bad);
    };
    let span = p.span_since(start);
    let made = make(p, reader, op, &line, span);
    for (i, (name, at)) in results.iter().enumerate() {
        match (made.as_ref().and_then(|ids| ids.get(i)), line.declared.get(i)) {
            (Some(id), _) => {
                reader.builder.rename_value(*id, name);
                reader.values.insert(name.clone(), *id);
                reader.report(p, *at);
            }
            (None, Some(ty)) if !reader.values.contains_key(name) => {
                let id = reader.builder.stand_in(name.clone(), ty.clone());
                reader.values.insert(name.clone(), id);
                reader.builder.take_errors();
            }
            (None, _) => {
                reader.lost.insert(name.clone());
            }
        }
    }
    if let Some(ids) = made
        && ids.len() != results.len()
    {
        let (found, expected) = (results.len(), ids.len());
        let count = GraphError::ResultCount { op: op.name(), found, expected };
        let _ = p.error::<()>(span, count.into());
    }
    Ok(())
}

/// Skips the rest of a line that could not be read; what it would define is lost.
pub(super) fn lose_line(p: &mut Parser<'_>, reader: &mut Reader, mark: usize) {
    let skipped = p.recover(mark);
    let Some(end) = skipped.iter().position(|t| t.text == "=") else { return };
    let names = skipped[..end].iter().filter(|t| t.kind == TokenKind::Value);
    reader.lost.extend(names.map(|t| Name::from(t.text)));
}

fn results(p: &mut Parser<'_>) -> Parse<Vec<(Name, Span)>> {
    let mut names = vec![];
    loop {
        let token = p.value()?;
        names.push((token.text.into(), token.span));
        if !p.eat(",") {
            p.expect("=")?;
            return Ok(names);
        }
    }
}

fn op(p: &mut Parser<'_>) -> Parse<OpRef> {
    let token = p.word()?;
    match ops::find(token.text) {
        Some(op) => Ok(op),
        None => p.error(token.span, GraphError::UnknownOp(token.text.into()).into()),
    }
}

fn line(p: &mut Parser<'_>, reader: &Reader, op: OpRef) -> Parse<Line> {
    let schema = op.0.schema();
    let mut operands = vec![];
    let mut attrs: Vec<Option<Attr>> = vec![None; schema.attrs.len()];
    match schema.attrs.iter().position(|a| a.kind == AttrKind::Expr) {
        Some(at) => attrs[at] = Some(expression(p, reader, &mut operands)?),
        None if p.peek().kind == TokenKind::Value => {
            operands.push(reader.value(p)?);
            while p.eat(",") {
                operands.push(reader.value(p)?);
            }
        }
        None => {}
    }
    let mask = if p.eat("where") { Some(reader.value(p)?) } else { None };
    if p.sees("{") {
        keyed(p, op, &mut attrs)?;
    }
    let declared = if p.eat(":") { types(p)? } else { return p.unexpected("`:` and a type") };
    Ok(Line { operands, mask, attrs, declared })
}

fn expression(
    p: &mut Parser<'_>,
    reader: &Reader,
    operands: &mut Vec<Option<ValueId>>,
) -> Parse<Attr> {
    let mut names: Vec<Name> = vec![];
    let attr = p.attr(AttrKind::Expr, &mut |token| {
        let known = reader.values.contains_key(token.text) || reader.lost.contains(token.text);
        if token.kind != TokenKind::Value || !known {
            return None;
        }
        Some(names.iter().position(|n| **n == *token.text).unwrap_or_else(|| {
            names.push(token.text.into());
            names.len() - 1
        }))
    })?;
    operands.extend(names.iter().map(|n| reader.values.get(n).copied()));
    Ok(attr)
}

fn keyed(p: &mut Parser<'_>, op: OpRef, attrs: &mut [Option<Attr>]) -> Parse<()> {
    let schema = op.0.schema();
    p.list("{", "}", |p| {
        let key = p.word()?;
        let Some(at) = schema.attrs.iter().position(|a| a.key == key.text) else {
            let keys: Vec<&str> = schema.attrs.iter().map(|a| a.key).collect();
            let (op, key_name, expected) = (schema.name, key.text.into(), keys.join(", "));
            let unknown = GraphError::UnknownAttr { op, key: key_name, expected };
            return p.error(key.span, unknown.into());
        };
        p.expect("=")?;
        let value = p.attr(schema.attrs[at].kind, &mut |_| None)?;
        if attrs[at].replace(value).is_some() {
            let twice = GraphError::Duplicate { what: "attribute", name: key.text.into() };
            return p.error(key.span, twice.into());
        }
        Ok(())
    })?;
    Ok(())
}

/// Adds the node; `None` where it is wrong or uses something lost.
fn make(
    p: &mut Parser<'_>,
    reader: &mut Reader,
    op: OpRef,
    line: &Line,
    span: Span,
) -> Option<Vec<ValueId>> {
    let schema = op.0.schema();
    let mut attrs = vec![];
    for (spec, attr) in schema.attrs.iter().zip(&line.attrs) {
        let Some(attr) = attr else {
            let missing = GraphError::MissingAttr { op: schema.name, key: spec.key };
            let _ = p.error::<()>(span, missing.into());
            return None;
        };
        attrs.push(attr.clone());
    }
    let operands: Vec<ValueId> = line.operands.iter().copied().collect::<Option<_>>()?;
    let mask = match line.mask {
        None => None,
        Some(mask) => Some(mask?),
    };
    match reader.builder.node(op, &operands, mask, Attrs(attrs), Some(&line.declared)) {
        Ok(ids) => Some(ids),
        Err(error) => {
            let _ = p.error::<()>(span, error.kind);
            None
        }
    }
}
