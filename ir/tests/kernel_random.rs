//! Made-up kernels: texts round-trip, and no text makes the reader panic.

use ir::attr::Attr;
use ir::dtype::{DType, Encoding};
use ir::kernel::builder::{At, KernelBuilder, list, packed, tensor};
use ir::kernel::{Fold, Kernel, LoopHints, Packing, ParamId, Role, TileType, ValueId, parse};
use proptest::prelude::*;

/// Builds a kernel from choices; each step takes operands whose types it can use.
struct Maker {
    b: KernelBuilder,
    choices: Vec<u32>,
    at: usize,
    /// Tiles in sight.
    tiles: Vec<ValueId>,
    inputs: Vec<ParamId>,
    out: ParamId,
}

fn plain(t: &TileType) -> bool {
    t.encoding.is_plain()
}

fn real(t: &TileType) -> bool {
    t.encoding == DType::F32.into()
}

fn matrix(t: &TileType) -> bool {
    real(t) && t.shape.len() == 2
}

impl Maker {
    fn choose(&mut self, n: usize) -> usize {
        self.at += 1;
        // Beyond the last choice everything is the first, so shrinking ends in small kernels.
        self.choices.get(self.at - 1).map_or(0, |c| *c as usize % n)
    }

    fn done(&self) -> bool {
        self.at >= self.choices.len()
    }

    /// A tile in sight that will do.
    fn tile(&mut self, fits: impl Fn(&TileType) -> bool) -> Option<ValueId> {
        let all: Vec<_> = self.tiles.iter().copied().filter(|t| fits(self.b.ty(*t))).collect();
        let at = self.choose(all.len().max(1));
        all.get(at).copied()
    }

    fn push(&mut self, tile: ValueId) {
        self.tiles.push(tile);
    }

    fn step(&mut self, depth: usize) -> Option<()> {
        let made = match self.choose(20) {
            0..7 => self.elementwise()?,
            7..13 => self.rearranged()?,
            13..17 => self.moved()?,
            17 => return self.write(),
            18 if depth > 0 => return self.repeat(depth),
            19 if depth > 0 => return self.branch(depth),
            _ => return None,
        };
        self.push(made);
        Some(())
    }

    fn elementwise(&mut self) -> Option<ValueId> {
        Some(match self.choose(7) {
            0 => {
                let (shape, number) = ([1 + self.choose(4) as u32, 8], self.choose(9) as u32);
                self.b.splat(f64::from(number) - 4.5, TileType::new(DType::F32, &shape))
            }
            1 => self.b.iota(1, &[4, 8]),
            2 => {
                let (a, n) = (self.tile(real)?, self.choose(4));
                let text =
                    ["a * 2 - 1", "select(a < 0, -a, exp2(a))", "float(int(a) / 3)", "-(2) * a"][n];
                self.b.map(text, &[("a", a)])
            }
            3 => {
                let a = self.tile(real)?;
                let shape = self.b.ty(a).shape.clone();
                let c = self.tile(|t| real(t) && (shape.starts_with(&t.shape)))?;
                self.b.map("b + max(a, b) * b", &[("a", a), ("b", c)])
            }
            4 => {
                let (a, to) = (self.tile(plain)?, self.choose(DType::ALL.len()));
                self.b.cast(a, DType::ALL[to])
            }
            5 => {
                let a = self.tile(|t| real(t) && !t.shape.is_empty())?;
                let coded = self.b.encode(a, "i8<f32 1x3 sum>".parse().expect("an encoding"));
                self.push(coded);
                self.b.decode(coded)
            }
            6 => {
                let a = self.tile(real)?;
                let ty = self.b.ty(a).clone();
                let other = self.tile(|t| *t == ty)?;
                let cond = self.b.map("a <= b", &[("a", a), ("b", other)]);
                self.b.choose(cond, a, other)
            }
            _ => return None,
        })
    }

    fn rearranged(&mut self) -> Option<ValueId> {
        Some(match self.choose(6) {
            0 => {
                let a = self.tile(|t| real(t) && !t.shape.is_empty())?;
                let axis = self.choose(self.b.ty(a).shape.len()) as u32;
                let fold = [Fold::Add, Fold::Max, Fold::Min][self.choose(3)];
                if self.choose(2) == 0 {
                    self.b.reduce(fold, axis, a)
                } else {
                    self.b.scan(fold, axis, a)
                }
            }
            1 => {
                let (x, y) = (self.tile(matrix)?, self.tile(matrix)?);
                let (m, k) = (self.b.ty(x).shape[0], self.b.ty(x).shape[1]);
                let [n, other] = self.b.ty(y).shape[..] else { return None };
                if k != other {
                    return None;
                }
                let zero = self.b.splat(0.0, TileType::new(DType::F32, &[m, n]));
                self.b.mma(zero, x, y)
            }
            2 => {
                let a = self.tile(matrix)?;
                let turned = self.b.transpose(a, &[1, 0]);
                self.push(turned);
                let extents = [1, self.b.ty(turned).shape[0]];
                let split = self.b.split(turned, 0, &extents);
                self.b.merge(split, 1, 2)
            }
            3 => {
                let a = self.tile(matrix)?;
                let shape = self.b.ty(a).shape.clone();
                let from = self.choose(shape[1] as usize) as u32;
                self.b.slice(a, &[0, from], &[shape[0], shape[1] - from])
            }
            4 => {
                let a = self.tile(|t| matrix(t) && t.elements() < 1000)?;
                self.b.concat(&[a, a], 1)
            }
            5 => {
                let a = self.tile(|t| real(t) && t.elements() < 100)?;
                let axis = self.choose(self.b.ty(a).shape.len() + 1) as u32;
                self.b.broadcast(a, axis, 2)
            }
            _ => return None,
        })
    }

    fn moved(&mut self) -> Option<ValueId> {
        Some(match self.choose(4) {
            0 => {
                let a = self.tile(matrix)?;
                let top = self.b.topk(a, None, 1);
                let picked = self.b.pick(a, top);
                let placed = self.b.place(picked, top, self.b.ty(a).shape[1]);
                self.push(picked);
                placed
            }
            1 => {
                let a = self.tile(|t| t.encoding == DType::I32.into())?;
                self.b.lookup(a, &[0.5, 1e-30, -3.0, 1e300].repeat(4))
            }
            2 => {
                let a = self.tile(matrix)?;
                let ty = self.b.ty(a).clone();
                let buffer = self.b.alloc(ty.clone());
                let whole = [At::tile(0, ty.shape[0]), At::tile(0, ty.shape[1])];
                self.b.store(a, buffer, &whole);
                self.b.load(buffer, &whole)
            }
            3 => self.read(),
            _ => return None,
        })
    }

    fn write(&mut self) -> Option<()> {
        let a = self.tile(|t| matrix(t) && t.shape[1] <= 8)?;
        let [m, k] = self.b.ty(a).shape[..] else { return None };
        let n = self.b.symbol("n", 1, 9);
        let rows = At::tile(0, m).bound(n);
        self.b.store(a, self.out, &[rows, At::tile(0, k)]);
        Some(())
    }

    fn read(&mut self) -> ValueId {
        let at = self.choose(self.inputs.len());
        let input = self.inputs[at];
        let n = self.b.symbol("n", 1, 9);
        match self.choose(4) {
            0 => self.b.load(input, &[At::tile(0, 4).bound(&n), At::tile(0, 8)]),
            1 => self.b.load_keep(input, &[At::tile(0, 4).bound(n), At::tile(2, 6)]),
            2 => {
                let rows = self.b.iota(0, &[4]);
                self.b.load(input, &[At::one(rows).bound(n.times(&2.into())), At::one(7)])
            }
            _ => {
                let size = self.b.dim(n.ceil_div(2));
                self.b.load(input, &[At::one(size).bound(size), At::tile(0, 8)])
            }
        }
    }

    fn inside(&mut self, depth: usize, then: impl FnOnce(&mut Self)) {
        let outside = self.tiles.len();
        for _ in 0..self.choose(4) {
            self.step(depth - 1);
        }
        then(self);
        self.tiles.truncate(outside);
    }

    fn repeat(&mut self, depth: usize) -> Option<()> {
        let a = self.tile(|t| t.encoding == DType::F32.into())?;
        let (stages, fan) = (self.choose(3) as u32, self.choose(2) as u32 * 9);
        let hints = LoopHints { stages, fan, then: None };
        // The builder lends itself to the body, so the rest of the maker goes along.
        let mut rest = self.take_apart();
        let results = rest.0.for_loop(0, 8, 4, &[("s", a)], hints, |b, k, carried| {
            std::mem::swap(&mut self.b, b);
            let mut next = carried[0];
            self.tiles.push(k);
            self.tiles.push(next);
            self.inside(depth, |m| next = m.b.map("s + s", &[("s", next)]));
            self.tiles.truncate(self.tiles.len() - 2);
            std::mem::swap(&mut self.b, b);
            vec![next]
        });
        self.b = rest.0;
        self.tiles.extend(results);
        Some(())
    }

    fn branch(&mut self, depth: usize) -> Option<()> {
        let a = self.tile(|t| t.encoding == DType::F32.into())?;
        let two = self.b.splat(2.0, TileType::scalar(DType::F32));
        let cond = self.b.map("a == 2", &[("a", two)]);
        let mut rest = self.take_apart();
        let results = rest.0.if_else(
            cond,
            |b| {
                std::mem::swap(&mut self.b, b);
                let mut next = a;
                self.inside(depth, |m| next = m.b.map("-a", &[("a", a)]));
                std::mem::swap(&mut self.b, b);
                vec![next]
            },
            |_| vec![a],
        );
        self.b = rest.0;
        self.tiles.extend(results);
        Some(())
    }

    fn take_apart(&mut self) -> (KernelBuilder,) {
        (std::mem::replace(&mut self.b, KernelBuilder::new("none", "none")),)
    }
}

fn kernel(choices: Vec<u32>) -> Kernel {
    let mut b = KernelBuilder::new("made_up", "row");
    b.family_param("eps", Attr::Float(1e-6));
    b.family_param("whole", Attr::Float(2.0));
    b.family_param("size", Attr::Dim("n".into()));
    let n = b.symbol("n", 1, 9);
    let scaled: Encoding = "i4<f16 1x4>".parse().expect("an encoding");
    let rows = [n.clone(), 8.into()];
    let inputs = vec![
        b.param("x", Role::In, tensor(DType::F32, &rows)),
        b.param("w", Role::In, packed(DType::BF16, &rows, Packing::blocked(2, 16, 2))),
        b.param("q", Role::In, tensor(scaled, &rows)),
        b.param("z", Role::InOut, tensor(DType::F32, &rows)),
    ];
    let out = b.param("y", Role::Out, tensor(DType::F32, &rows));
    let work = b.param("work", Role::In, list(&["first", "last"], n));
    let mut tiles = vec![b.grid_range("i", 8, 4)];
    tiles.extend(b.grid_list(work));
    let mut maker = Maker { b, choices, at: 0, tiles, inputs, out };
    while !maker.done() {
        maker.step(3);
    }
    maker.b.finish().unwrap_or_else(|e| panic!("{e:#?}"))
}

/// What a damaged text gets in place of a character.
const PIECES: &str = "[%@{}\\[\\]():,.<>=+*/ 0-9a-z-]{0,3}";

proptest! {
    #[test]
    fn made_up_kernels_round_trip(choices in prop::collection::vec(any::<u32>(), 0..120)) {
        let kernel = kernel(choices);
        let text = kernel.to_string();
        let read = parse::kernel(&text);
        prop_assert!(read.as_ref() == Ok(&kernel), "{text}\n{read:#?}");
    }

    #[test]
    fn damaged_texts_do_not_panic(
        choices in prop::collection::vec(any::<u32>(), 0..60),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), PIECES), 1..6),
    ) {
        let mut text = kernel(choices).to_string();
        for (at, put) in cuts {
            let at = at.index(text.len());
            text.replace_range(at..(at + 1).min(text.len()), &put);
        }
        for e in parse::kernels(&text).err().into_iter().flatten() {
            let span = e.span.expect("every error of a text has a span");
            prop_assert!(span.start <= span.end && span.end <= text.len());
        }
    }

    #[test]
    fn noise_does_not_panic(text in "\\PC*") {
        prop_assert!(parse::kernel(&text).is_err());
    }
}
