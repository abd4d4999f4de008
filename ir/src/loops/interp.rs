//! The meaning of a loop program: runs it over simulated memory, in which every access is checked.

mod product;

use super::{Arith, Cmp, Convert, Elem, For, Func, Inst, MemElem, Program, Reg, RegType, Stmt};
use crate::error::{IrError, IrErrorKind};

/// Bits of an address that count bytes; the others number the region.
const REGION_BITS: u32 = 40;

/// Memory in regions that do not touch each other.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Contents.
    pub regions: Vec<Vec<u8>>,
    /// Addresses that were prefetched, in order.
    pub prefetched: Vec<u64>,
}

impl Memory {
    /// Adds a region; gives its address.
    pub fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.regions.push(bytes);
        (self.regions.len() as u64) << REGION_BITS
    }

    fn at(&mut self, address: u64, len: usize) -> Result<&mut [u8], String> {
        let region = (address >> REGION_BITS).wrapping_sub(1) as usize;
        let offset = (address & ((1 << REGION_BITS) - 1)) as usize;
        let bytes = self.regions.get_mut(region);
        bytes
            .and_then(|b| b.get_mut(offset..offset + len))
            .ok_or_else(|| format!("{len} bytes at {offset} of region {region} are not there"))
    }
}

/// Runs instances `begin..end`. `args` are addresses of regions and sizes, as the CPU kernel
/// signature has them.
///
/// # Errors
/// E0301: an access outside of the memory, a division by 0.
pub fn run(
    program: &Program,
    args: &[u64],
    begin: i64,
    end: i64,
    memory: &mut Memory,
) -> Result<(), IrError> {
    // Whatever is read before it is written spoils the result.
    let scratch = memory.add(vec![0xff; program.scratch_bytes as usize]);
    let values = vec![Vec::new(); program.regs.len()];
    let mut run = Run { program, args, begin, end, scratch, memory, values };
    run.block(&program.body).map_err(|what| IrError {
        span: None,
        kind: IrErrorKind::Loops { program: program.name.to_string(), what },
    })
}

struct Run<'p> {
    program: &'p Program,
    args: &'p [u64],
    begin: i64,
    end: i64,
    scratch: u64,
    memory: &'p mut Memory,
    /// Bits of each lane.
    values: Vec<Vec<u64>>,
}

type Lanes = Result<Vec<u64>, String>;

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn bits_of(v: f32) -> u64 {
    u64::from(v.to_bits())
}

impl Run<'_> {
    fn ty(&self, reg: Reg) -> RegType {
        self.program.regs[reg.0 as usize]
    }

    fn get(&self, reg: Reg) -> &[u64] {
        &self.values[reg.0 as usize]
    }

    fn one(&self, reg: Reg) -> u64 {
        self.get(reg)[0]
    }

    fn set(&mut self, reg: Reg, lanes: Vec<u64>) {
        self.values[reg.0 as usize] = lanes;
    }

    fn block(&mut self, stmts: &[Stmt]) -> Result<(), String> {
        stmts.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), String> {
        match stmt {
            Stmt::Let(reg, inst) => {
                let lanes = self.inst(self.ty(*reg), inst)?;
                self.set(*reg, lanes);
            }
            Stmt::Store { elem, address, offset, value } => {
                let size = size_of(*elem);
                let lanes = self.get(*value).to_vec();
                let address = self.one(*address).wrapping_add(*offset as u64);
                let bytes = self.memory.at(address, size * lanes.len())?;
                for (to, lane) in bytes.chunks_mut(size).zip(lanes) {
                    to.copy_from_slice(&lane.to_le_bytes()[..size]);
                }
            }
            Stmt::Prefetch { address, offset } => {
                let address = self.one(*address).wrapping_add(*offset as u64);
                self.memory.prefetched.push(address);
            }
            Stmt::For(f) => self.repeat(f)?,
            Stmt::If { cond, then, otherwise } => {
                let taken = if self.one(*cond) != 0 { then } else { otherwise };
                self.block(taken)?;
            }
            Stmt::Mma(mma) => self.product(mma)?,
        }
        Ok(())
    }

    fn repeat(&mut self, f: &For) -> Result<(), String> {
        let (mut at, hi) = (self.one(f.lo) as i64, self.one(f.hi) as i64);
        for c in &f.carry {
            self.set(c.inside, self.get(c.init).to_vec());
        }
        while at < hi {
            self.set(f.var, vec![at as u64]);
            self.block(&f.body)?;
            let next: Vec<_> = f.carry.iter().map(|c| self.get(c.next).to_vec()).collect();
            for (c, next) in f.carry.iter().zip(next) {
                self.set(c.inside, next);
            }
            at += f.step;
        }
        for c in &f.carry {
            self.set(c.after, self.get(c.inside).to_vec());
        }
        Ok(())
    }

    fn inst(&mut self, ty: RegType, inst: &Inst) -> Lanes {
        let lanes = ty.lanes as usize;
        Ok(match inst {
            Inst::Float(v) if ty.elem == Elem::F64 => vec![v.to_bits()],
            Inst::Float(v) => vec![bits_of(*v as f32); lanes],
            Inst::Int(v) => vec![cut(ty.elem, *v); lanes],
            Inst::Begin => vec![self.begin as u64],
            Inst::End => vec![self.end as u64],
            Inst::Scratch(offset) => vec![self.scratch + offset],
            Inst::Argument(i) => {
                let arg = self.args.get(*i as usize).copied();
                vec![arg.ok_or_else(|| format!("argument {i} is not there"))?]
            }
            Inst::Arith(op, a, b) => {
                let pairs = self.get(*a).iter().zip(self.get(*b));
                pairs.map(|(a, b)| arith(ty.elem, *op, *a, *b)).collect::<Lanes>()?
            }
            Inst::Fma(a, b, c) => {
                let three = self.get(*a).iter().zip(self.get(*b)).zip(self.get(*c));
                let one = |((a, b), c): ((&u64, &u64), &u64)| {
                    bits_of(f32_of(*a).mul_add(f32_of(*b), f32_of(*c)))
                };
                three.map(one).collect()
            }
            Inst::Func(f, a) => self.get(*a).iter().map(|a| func(ty.elem, *f, *a)).collect(),
            Inst::Convert(c, a) => self.get(*a).iter().map(|a| convert(*c, *a)).collect(),
            Inst::Cmp(c, a, b) => {
                let elem = self.ty(*a).elem;
                let pairs = self.get(*a).iter().zip(self.get(*b));
                pairs.map(|(a, b)| u64::from(cmp(elem, *c, *a, *b))).collect()
            }
            Inst::Select(c, a, b) => {
                let three = self.get(*c).iter().zip(self.get(*a)).zip(self.get(*b));
                three.map(|((c, a), b)| if *c != 0 { *a } else { *b }).collect()
            }
            Inst::Splat(a) => vec![self.one(*a); lanes],
            Inst::Iota if ty.elem == Elem::F32 => (0..lanes).map(|i| bits_of(i as f32)).collect(),
            Inst::Iota => (0..lanes as u64).collect(),
            Inst::Extract(a, lane) => vec![self.get(*a)[*lane as usize]],
            Inst::Across(op, a) => {
                let lanes = self.get(*a);
                let first = Ok(lanes[0]);
                let folded =
                    lanes[1..].iter().fold(first, |sum, lane| arith(ty.elem, *op, sum?, *lane));
                vec![folded?]
            }
            Inst::Load { elem, address, offset } => {
                let size = size_of(*elem);
                let address = self.one(*address).wrapping_add(*offset as u64);
                let bytes = self.memory.at(address, size * lanes)?;
                bytes.chunks(size).map(|b| widen(*elem, b)).collect()
            }
        })
    }
}

fn size_of(elem: MemElem) -> usize {
    match elem {
        MemElem::I64 => 8,
        MemElem::F32 | MemElem::I32 => 4,
        MemElem::U16 => 2,
        MemElem::U8 | MemElem::I8 => 1,
    }
}

fn widen(elem: MemElem, bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    match elem {
        MemElem::I8 => u64::from(bytes[0] as i8 as i32 as u32),
        _ => u64::from_le_bytes(wide),
    }
}

/// An integer as an element has it.
fn cut(elem: Elem, v: i64) -> u64 {
    match elem {
        Elem::I32 => u64::from(v as u32),
        Elem::Bool => u64::from(v != 0),
        _ => v as u64,
    }
}

fn signed(elem: Elem, bits: u64) -> i64 {
    if elem == Elem::I32 { i64::from(bits as u32 as i32) } else { bits as i64 }
}

fn arith(elem: Elem, op: Arith, a: u64, b: u64) -> Result<u64, String> {
    match elem {
        Elem::F32 => {
            let (x, y) = (f32_of(a), f32_of(b));
            Ok(bits_of(match op {
                Arith::Add => x + y,
                Arith::Sub => x - y,
                Arith::Mul => x * y,
                Arith::Div => x / y,
                Arith::Min => {
                    if x < y {
                        x
                    } else {
                        y
                    }
                }
                Arith::Max => {
                    if x > y {
                        x
                    } else {
                        y
                    }
                }
                other => return Err(format!("{other:?} of floats")),
            }))
        }
        Elem::F64 => {
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            Ok(match op {
                Arith::Add => x + y,
                Arith::Sub => x - y,
                Arith::Mul => x * y,
                Arith::Div => x / y,
                other => return Err(format!("{other:?} of f64")),
            }
            .to_bits())
        }
        _ => integers(elem, op, signed(elem, a), signed(elem, b)).map(|v| cut(elem, v)),
    }
}

fn integers(elem: Elem, op: Arith, a: i64, b: i64) -> Result<i64, String> {
    let bits = if elem == Elem::I32 { 32 } else { 64 };
    let amount = (b as u32) % bits;
    Ok(match op {
        Arith::Add => a.wrapping_add(b),
        Arith::Sub => a.wrapping_sub(b),
        Arith::Mul => a.wrapping_mul(b),
        Arith::Div => a.checked_div(b).ok_or("division by 0")?,
        Arith::Rem => a.checked_rem(b).ok_or("division by 0")?,
        Arith::Min => a.min(b),
        Arith::Max => a.max(b),
        Arith::And => a & b,
        Arith::Or => a | b,
        Arith::Xor => a ^ b,
        Arith::Shl => a.wrapping_shl(amount),
        Arith::ShrU if bits == 32 => i64::from(a as u32 >> amount),
        Arith::ShrU => (a as u64 >> amount) as i64,
        Arith::ShrS => a >> amount,
    })
}

fn func(elem: Elem, f: Func, a: u64) -> u64 {
    if f == Func::Not {
        return a ^ 1;
    }
    if elem == Elem::F64 {
        let x = f64::from_bits(a);
        let y = match f {
            Func::Neg => -x,
            Func::Abs => x.abs(),
            Func::Sqrt => x.sqrt(),
            Func::Floor => x.floor(),
            _ => x.round_ties_even(),
        };
        return y.to_bits();
    }
    let x = f32_of(a);
    bits_of(match f {
        Func::Neg => -x,
        Func::Abs => x.abs(),
        Func::Sqrt => x.sqrt(),
        Func::Floor => x.floor(),
        _ => x.round_ties_even(),
    })
}

fn convert(c: Convert, a: u64) -> u64 {
    match c {
        Convert::I32ToF32 => bits_of(a as u32 as i32 as f32),
        Convert::F32ToI32 => u64::from(f32_of(a) as i32 as u32),
        Convert::F32ToF64 => f64::from(f32_of(a)).to_bits(),
        Convert::F64ToF32 => bits_of(f64::from_bits(a) as f32),
        Convert::F64ToI64 => f64::from_bits(a) as i64 as u64,
        Convert::I64ToF64 => (a as i64 as f64).to_bits(),
        Convert::I32ToI64 => signed(Elem::I32, a) as u64,
        Convert::I64ToI32 => u64::from(a as u32),
        Convert::I32ToBool => u64::from(a as u32 != 0),
        Convert::BoolToI32 | Convert::F32Bits | Convert::I32Bits => a,
    }
}

fn cmp(elem: Elem, c: Cmp, a: u64, b: u64) -> bool {
    fn holds<T: PartialOrd>(c: Cmp, a: T, b: T) -> bool {
        match c {
            Cmp::Eq => a == b,
            Cmp::Ne => a != b,
            Cmp::Lt => a < b,
            Cmp::Le => a <= b,
            Cmp::Gt => a > b,
            Cmp::Ge => a >= b,
        }
    }
    match elem {
        Elem::F32 => holds(c, f32_of(a), f32_of(b)),
        Elem::F64 => holds(c, f64::from_bits(a), f64::from_bits(b)),
        _ => holds(c, signed(elem, a), signed(elem, b)),
    }
}
