//! Random graphs to which a law applies.

use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::builder::GraphBuilder;
use ir::graph::{Graph, ValueId};
use ir::number::mix;

/// A value, or why there is none.
pub type Made = Result<ValueId, IrError>;

/// Numbers at random, the same of each seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(mix(seed ^ 0x1a77))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 = mix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (self.0 % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub fn shuffled<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        let mut all = of.to_vec();
        (1..all.len()).rev().for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }

    /// Some of them, in an order at random.
    pub fn some<T: Clone>(&mut self, of: &[T], at_least: usize, at_most: usize) -> Vec<T> {
        let (low, high) = (at_least.min(of.len()), at_most.min(of.len()));
        let count = low + self.below(high - low + 1);
        let mut all = self.shuffled(of);
        all.truncate(count);
        all
    }
}

/// Axes of plain extents.
pub const PLAIN: [&str; 5] = ["a", "b", "c", "d", "s"];

/// A graph being drawn.
pub struct Draft {
    pub b: GraphBuilder,
    pub rng: Rng,
    params: usize,
}

impl Draft {
    /// Extents `a` to `g`, `p` and `q` with sums and products of them; `k` chosen of `e`; new rows
    /// `s` and rows `t` of the context.
    pub fn new(seed: u64) -> Draft {
        let mut rng = Rng::new(seed);
        let mut b = GraphBuilder::new("drawn");
        for name in ["a", "b", "c", "d", "e", "g", "p", "q"] {
            b.param_symbol(name, 3 + rng.below(7) as i64);
        }
        b.param_symbol("k", 2);
        b.step_symbol("s", 1, 1 << 20);
        b.step_symbol("t", 1, 1 << 20);
        let of = |name: &str| Dim::symbol(name);
        for (name, extent) in [
            ("pq", of("p").times(&of("q"))),
            ("pq2", of("p").times(&of("q"))),
            ("ag", of("a").plus(&of("g"))),
            ("agb", of("a").plus(&of("g")).plus(&of("b"))),
            ("e1", of("e").plus(&1.into())),
            ("ep", of("e").plus(&of("p"))),
            ("a2", of("a")),
            ("g2", of("g")),
            ("p2", of("p")),
            ("q2", of("q")),
            ("k2", of("k")),
            ("u", 1.into()),
            ("z", 2.into()),
        ] {
            b.index(name, extent);
        }
        Draft { b, rng, params: 0 }
    }

    /// The graph that returns a value.
    pub fn returning(mut self, value: ValueId) -> Result<Graph, IrError> {
        self.b.output(value);
        self.b.finish().map_err(|mut errors| errors.swap_remove(0))
    }

    /// Axes of a value.
    pub fn axes(&self, value: ValueId) -> Vec<String> {
        self.b.ty(value).indices.iter().map(|n| n.to_string()).collect()
    }

    fn named(&mut self) -> String {
        self.params += 1;
        format!("v{}", self.params)
    }

    pub fn input(&mut self, axes: &[&str]) -> ValueId {
        let (name, axes) = (self.named(), self.rng.shuffled(axes));
        self.b.input(&name, DType::F32, &axes)
    }

    pub fn weight(&mut self, axes: &[&str]) -> ValueId {
        let (name, axes) = (self.named(), self.rng.shuffled(axes));
        let dtype = self.rng.pick(&[DType::F32, DType::BF16]);
        self.b.weight(&name, dtype, &axes)
    }

    /// A constant, where no axis is of a step.
    pub fn constant(&mut self, axes: &[&str]) -> ValueId {
        match axes.iter().any(|a| ["s", "t"].contains(a)) {
            true => self.input(axes),
            false => self.weight(axes),
        }
    }

    pub fn ones(&mut self, axes: &[&str]) -> Made {
        self.b.splat(1.0, axes)
    }

    /// A value with these axes: a constant, an input, a function of one, ones, or rows of a
    /// constant.
    pub fn value(&mut self, axes: &[&str]) -> Made {
        match self.rng.below(12) {
            0..=4 => Ok(self.constant(axes)),
            5..=7 => Ok(self.input(axes)),
            8 | 9 => {
                let x = self.input(axes);
                self.b.map("sigmoid(%x)", &[("x", x)], axes)
            }
            10 if axes.len() < 3 => self.ones(axes),
            _ => match axes.iter().position(|a| ["a", "b", "s"].contains(a)) {
                Some(at) if !axes.contains(&"e") => {
                    let mut from = axes.to_vec();
                    from[at] = "e";
                    from.retain(|a| *a != "s");
                    let (table, rows) = (self.weight(&from), self.rows(&[axes[at]]));
                    let x = self.b.gather(table, rows, None, "e")?;
                    let lost = axes.iter().any(|a| !self.axes(x).iter().any(|b| b == a));
                    if lost { Ok(self.input(axes)) } else { Ok(x) }
                }
                _ => Ok(self.input(axes)),
            },
        }
    }

    /// Row numbers from outside.
    pub fn rows(&mut self, axes: &[&str]) -> ValueId {
        let (name, axes) = (self.named(), self.rng.shuffled(axes));
        self.b.input(&name, DType::I32, &axes)
    }

    /// Distinct rows of `e`, for each row of some axes, along `k`.
    pub fn distinct(&mut self, axes: &[&str]) -> Made {
        let score = self.input(&[axes, &["e"]].concat());
        self.b.topk(score, None, "e", "k")
    }

    /// Rows of `e` along `k`, distinct or not.
    pub fn index(&mut self, axes: &[&str]) -> Made {
        match self.rng.chance(50) {
            true => self.distinct(axes),
            false => Ok(self.rows(&[axes, &["k"]].concat())),
        }
    }

    /// A product in either order.
    pub fn product(&mut self, x: ValueId, y: ValueId, axes: &[&str]) -> Made {
        let (x, y) = if self.rng.chance(50) { (x, y) } else { (y, x) };
        self.b.contract(x, y, axes)
    }

    /// Either value first.
    pub fn pair(&mut self, x: &[&str], y: &[&str]) -> Result<[ValueId; 2], IrError> {
        if self.rng.chance(50) {
            let x = self.value(x)?;
            return Ok([x, self.value(y)?]);
        }
        let y = self.value(y)?;
        Ok([self.value(x)?, y])
    }

    /// An elementwise expression of values, each called by its letter.
    pub fn map(&mut self, text: &str, of: &[ValueId], axes: &[&str]) -> Made {
        let named: Vec<(&str, ValueId)> =
            ["x", "y", "z"].into_iter().zip(of.iter().copied()).collect();
        self.b.map(text, &named, axes)
    }

    /// Another graph's axes as names.
    pub fn names(axes: &[String]) -> Vec<&str> {
        axes.iter().map(String::as_str).collect()
    }

    /// Extent of an axis.
    #[allow(dead_code)]
    pub fn extent(&self, axis: &str) -> Dim {
        self.b.graph().extent(&Name::from(axis))
    }
}
