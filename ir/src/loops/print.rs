//! Loop programs as text, for people: one statement a line, blocks indented. There is no parser.

use super::{
    Ahead, Elem, For, Inst, Mma, Nested, Program, Reg, RegType, Right, Scales, Stmt, Stride,
    Strided, Unit,
};
use std::fmt;

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for RegType {
    /// `f32`, `i32x4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elem = match self.elem {
            Elem::F32 => "f32",
            Elem::F64 => "f64",
            Elem::I32 => "i32",
            Elem::I64 => "i64",
            Elem::Bool => "bool",
        };
        f.write_str(elem)?;
        if self.lanes > 1 { write!(f, "x{}", self.lanes) } else { Ok(()) }
    }
}

impl fmt::Display for Stride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stride::Bytes(b) => write!(f, "{b}"),
            Stride::Reg(r) => write!(f, "{r}"),
        }
    }
}

impl fmt::Display for Strided {
    /// `[address; row, col]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}, {}]", self.address, self.row, self.col)
    }
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scales { address, per_row, first_row, first_col, rows, cols, sums, .. } = self;
        write!(f, "scales {rows}x{cols} [{address}; {per_row}] from ({first_row}, {first_col})")?;
        sums.iter().try_for_each(|s| write!(f, " sums [{s}]"))
    }
}

impl fmt::Display for Nested {
    /// `16 + j/1%16*4 + k/32%2*16`, in bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.begin)?;
        self.terms.iter().try_for_each(|t| {
            let x = if t.along_k { 'k' } else { 'j' };
            write!(f, " + {x}/{}%{}*{}", t.divisor, t.extent, t.bits)
        })
    }
}

impl fmt::Display for Inst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inst::Float(v) => write!(f, "{v:?}"),
            Inst::Int(v) => write!(f, "{v}"),
            Inst::Begin => f.write_str("begin"),
            Inst::End => f.write_str("end"),
            Inst::Scratch(offset) => write!(f, "scratch + {offset}"),
            Inst::Argument(i) => write!(f, "args[{i}]"),
            Inst::Arith(op, a, b) => write!(f, "{} {a}, {b}", word(op)),
            Inst::Fma(a, b, c) => write!(f, "fma {a}, {b}, {c}"),
            Inst::Func(op, a) => write!(f, "{} {a}", word(op)),
            Inst::Convert(c, a) => write!(f, "{} {a}", word(c)),
            Inst::Cmp(c, a, b) => write!(f, "{} {a}, {b}", word(c)),
            Inst::Select(c, a, b) => write!(f, "select {c}, {a}, {b}"),
            Inst::Splat(a) => write!(f, "splat {a}"),
            Inst::Iota => f.write_str("iota"),
            Inst::Extract(a, lane) => write!(f, "extract {a}, {lane}"),
            Inst::Across(op, a) => write!(f, "across {} {a}", word(op)),
            Inst::Load { elem, address, offset } => {
                write!(f, "load {} [{address} + {offset}]", word(elem))
            }
        }
    }
}

/// A name in lower case.
fn word(name: &impl fmt::Debug) -> String {
    format!("{name:?}").to_lowercase()
}

impl fmt::Display for Mma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mma { m, n, k, acc, left, right, .. } = self;
        write!(f, "mma {m}x{n}x{k} {acc}, {} {}", left.encoding, left.at)?;
        left.scales.iter().try_for_each(|s| write!(f, " {s}"))?;
        match right {
            Right::Strided { encoding, at } => write!(f, ", {encoding} {at}")?,
            Right::Blocked { encoding, address, block_bytes, lanes, group, scales } => {
                write!(f, ", {encoding} blocks {lanes}x{group} [{address}; {block_bytes}]")?;
                scales.iter().try_for_each(|s| write!(f, " {s}"))?;
            }
            Right::Units { encoding, address, block_bytes, unit, scales } => {
                let Unit { lanes, depth, bytes, codes, scales: within } = unit;
                write!(f, ", {encoding} units {lanes}x{depth} of {bytes} bytes (codes {codes}")?;
                within.iter().try_for_each(|s| write!(f, ", scales {s}"))?;
                write!(f, ") [{address}; {block_bytes}]")?;
                scales.iter().try_for_each(|s| write!(f, " {s}"))?;
            }
        }
        for (name, valid) in [("m", self.m_valid), ("n", self.n_valid), ("k", self.k_valid)] {
            valid.iter().try_for_each(|v| write!(f, " where {name} < {v}"))?;
        }
        if let Some(Ahead { address, pitch, rows, bytes }) = self.ahead {
            write!(f, " ahead {rows} x {bytes} bytes [{address}; {pitch}]")?;
        }
        if self.batch_invariant {
            write!(f, " batch_invariant")?;
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Program { name, lanes, scratch_bytes, .. } = self;
        writeln!(f, "program @{name}, {lanes} lanes, {scratch_bytes} bytes of scratch {{")?;
        block(f, self, &self.body, 1)?;
        writeln!(f, "}}")
    }
}

fn block(f: &mut fmt::Formatter<'_>, p: &Program, stmts: &[Stmt], depth: usize) -> fmt::Result {
    for stmt in stmts {
        write!(f, "{:1$}", "", 2 * depth)?;
        match stmt {
            Stmt::Let(reg, inst) => {
                let ty = p.regs.get(reg.0 as usize).map_or(String::new(), RegType::to_string);
                writeln!(f, "{reg} = {inst} : {ty}")?;
            }
            Stmt::Store { elem, address, offset, value } => {
                writeln!(f, "store {} {value}, [{address} + {offset}]", word(elem))?;
            }
            Stmt::Prefetch { address, offset } => writeln!(f, "prefetch [{address} + {offset}]")?,
            Stmt::Mma(mma) => writeln!(f, "{mma}")?,
            Stmt::For(l) => repeat(f, p, l, depth)?,
            Stmt::If { cond, then, otherwise } => {
                writeln!(f, "if {cond} {{")?;
                block(f, p, then, depth + 1)?;
                if !otherwise.is_empty() {
                    writeln!(f, "{:1$}}} else {{", "", 2 * depth)?;
                    block(f, p, otherwise, depth + 1)?;
                }
                writeln!(f, "{:1$}}}", "", 2 * depth)?;
            }
        }
    }
    Ok(())
}

fn repeat(f: &mut fmt::Formatter<'_>, p: &Program, l: &For, depth: usize) -> fmt::Result {
    let of = |part: &dyn Fn(&super::Carry) -> String| {
        l.carry.iter().map(part).collect::<Vec<_>>().join(", ")
    };
    if !l.carry.is_empty() {
        write!(f, "{} = ", of(&|c| c.after.to_string()))?;
    }
    write!(f, "for {} in {}..{} step {}", l.var, l.lo, l.hi, l.step)?;
    if !l.carry.is_empty() {
        write!(f, " carry {}", of(&|c| format!("{} = {}", c.inside, c.init)))?;
    }
    writeln!(f, " {{")?;
    block(f, p, &l.body, depth + 1)?;
    if !l.carry.is_empty() {
        let next = of(&|c| c.next.to_string());
        writeln!(f, "{:1$}yield {next}", "", 2 * (depth + 1))?;
    }
    writeln!(f, "{:1$}}}", "", 2 * depth)
}
