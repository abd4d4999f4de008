//! Operations.

use super::{Entity, Reader};
use crate::error::IrErrorKind;
use crate::kernel::error::KernelError;
use crate::kernel::{Fold, Op, ValueId};
use crate::text::{Bad, Parse, Parser, TokenKind};

impl Reader<'_, '_> {
    /// An operation without its result's type.
    pub(super) fn op(&mut self) -> Parse<Op> {
        let name = self.p.word()?;
        Ok(match name.text {
            "splat" => Op::Splat(self.p.number()?),
            "iota" => Op::Iota { axis: self.p.small()? },
            "map" => self.map()?,
            "dim" => Op::Dim(self.p.dim()?),
            "cast" => Op::Cast(self.value()?),
            "encode" => Op::Encode(self.value()?),
            "decode" => Op::Decode(self.value()?),
            "reduce" | "scan" => self.folded(name.text)?,
            "where" => {
                let [cond, a, b] = self.three()?;
                Op::Where { cond, a, b }
            }
            "mma" => {
                let [acc, a, b] = self.three()?;
                Op::Mma { acc, a, b }
            }
            "transpose" => Op::Transpose { arg: self.value()?, order: self.numbers()? },
            "split" => {
                let (arg, axis) = (self.value()?, self.over()?);
                Op::Split { arg, axis, extents: self.numbers()? }
            }
            "merge" => {
                let (arg, axis) = (self.value()?, self.over()?);
                self.p.expect("+")?;
                Op::Merge { arg, axis, count: self.p.small()? }
            }
            "slice" => Op::Slice { arg: self.value()?, starts: self.numbers()? },
            "concat" => Op::Concat { args: self.values()?, axis: self.over()? },
            "broadcast" => Op::Broadcast { arg: self.value()?, axis: self.over()? },
            "topk" => {
                let (k, arg) = (self.p.small()?, self.value()?);
                let mask = if self.p.eat("where") { Some(self.value()?) } else { None };
                Op::TopK { arg, mask, k }
            }
            "pick" | "place" => self.positions(name.text)?,
            "lookup" => {
                let arg = self.value()?;
                Op::Lookup { arg, table: self.p.list("[", "]", Parser::number)? }
            }
            "alloc" => Op::Alloc,
            "load" => Op::Load { access: self.access()?, keep: self.p.eat("keep") },
            _ => {
                let (found, expected) = (format!("`{}`", name.text), "an operation".to_string());
                return self.p.error(name.span, IrErrorKind::Syntax { found, expected });
            }
        })
    }

    fn map(&mut self) -> Parse<Op> {
        self.p.expect("{")?;
        let (mut args, mut missing) = (Vec::new(), Vec::new());
        let names = &self.names;
        let expr = self.p.expr(&mut |token| {
            if token.kind != TokenKind::Value {
                return None;
            }
            let id = match names.get(token.text) {
                Some(Entity::Value(id)) => *id,
                Some(Entity::Param(_)) => return None,
                None => {
                    missing.push((token.text.to_string(), token.span));
                    ValueId(u32::MAX)
                }
            };
            Some(args.iter().position(|a| *a == id).unwrap_or_else(|| {
                args.push(id);
                args.len() - 1
            }))
        })?;
        self.p.expect("}")?;
        let mut lost = false;
        for (name, span) in missing {
            lost = true;
            if !self.unknown.contains(name.as_str()) {
                let _ = self.p.error::<()>(span, KernelError::Unknown { name }.into());
            }
        }
        if lost { Err(Bad) } else { Ok(Op::Map { args, expr }) }
    }

    fn three(&mut self) -> Parse<[ValueId; 3]> {
        let a = self.value()?;
        self.p.expect(",")?;
        let b = self.value()?;
        self.p.expect(",")?;
        Ok([a, b, self.value()?])
    }

    fn over(&mut self) -> Parse<u32> {
        self.p.expect("over")?;
        self.p.small()
    }

    fn numbers(&mut self) -> Parse<Vec<u32>> {
        self.p.list("[", "]", Parser::small)
    }

    fn folded(&mut self, name: &str) -> Parse<Op> {
        let text = self.p.peek().text;
        let Some((fold, _)) = Fold::ALL.iter().find(|(_, n)| *n == text).copied() else {
            return self.p.unexpected("`add`, `max` or `min`");
        };
        self.p.advance();
        let (arg, axis) = (self.value()?, self.over()?);
        Ok(match name {
            "reduce" => Op::Reduce { fold, axis, arg },
            _ => Op::Scan { fold, axis, arg },
        })
    }

    fn positions(&mut self, name: &str) -> Parse<Op> {
        let arg = self.value()?;
        self.p.expect(",")?;
        let index = self.value()?;
        Ok(if name == "pick" { Op::Pick { arg, index } } else { Op::Place { arg, index } })
    }
}
