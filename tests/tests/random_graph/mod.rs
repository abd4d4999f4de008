//! Draws small well-typed graphs.

pub mod saved;
pub mod shrink;

use ir::dtype::{Class, DType};
use ir::error::IrError;
use ir::graph::builder::GraphBuilder;
use ir::graph::{Graph, ValueId};
use ir::tensor::Tensor;
use tests::kernel::Noise;

/// A graph and what it is given.
#[derive(Clone)]
pub struct Drawn {
    pub graph: Graph,
    pub inputs: Vec<Tensor<f32>>,
}

/// Indices with their extents; `c = d * h`, `g = d + f`, and those with a 2 are for renaming.
const INDICES: [(&str, i64); 15] = [
    ("c", 15),
    ("d", 5),
    ("d2", 5),
    ("e", 8),
    ("e2", 8),
    ("f", 7),
    ("g", 12),
    ("h", 3),
    ("i", 6),
    ("k", 2),
    ("l", 1),
    ("o", 17),
    ("s", 3),
    ("t", 4),
    ("z", 2),
];

/// Most indices of a value.
const RANK: usize = 4;
/// Most elements of a value.
const ELEMENTS: i64 = 4000;

type Step = fn(&mut Maker) -> Result<(), IrError>;

const STEPS: &[Step] = &[
    Maker::map,
    Maker::map,
    Maker::compare,
    Maker::reduce,
    Maker::reduce,
    Maker::contract,
    Maker::contract,
    Maker::softmax,
    Maker::topk,
    Maker::gather,
    Maker::scatter,
    Maker::slice,
    Maker::concat,
    Maker::split,
    Maker::merge,
    Maker::rename,
    Maker::rms_norm,
    Maker::rope,
    Maker::swiglu,
    Maker::cast,
    Maker::iota,
    Maker::constant,
    Maker::quantize,
    Maker::attention,
    Maker::experts,
    Maker::truth,
];

/// A graph under construction: pools of values grow by ops on their members.
struct Maker {
    b: GraphBuilder,
    noise: Noise,
    floats: Vec<ValueId>,
    bools: Vec<ValueId>,
    inputs: Vec<Tensor<f32>>,
}

/// Draws a graph.
pub fn draw(seed: u64) -> Drawn {
    let mut b = GraphBuilder::new("drawn");
    for (name, extent) in INDICES {
        b.index(name, extent);
    }
    let (noise, empty) = (Noise(seed.wrapping_mul(0x9e37_79b9) + 1), vec![]);
    let mut m = Maker { b, noise, floats: vec![], bools: empty, inputs: vec![] };
    m.fresh(&["s", "d"]);
    m.fresh(&["s", "f", "h"]);
    let steps = 4 + m.below(5);
    // One step is the seed's own, so that few seeds draw every op.
    let own = seed as usize % STEPS.len();
    for i in 0..steps {
        let at = if i == 1 { own } else { m.below(STEPS.len()) };
        STEPS[at](&mut m).unwrap_or_else(|e| panic!("seed {seed}, step {at}: {e}"));
    }
    let uses = |graph: &Graph, v| graph.nodes.iter().any(|n| n.operands.contains(&v));
    let results: Vec<ValueId> = m.b.graph().nodes.iter().flat_map(|n| n.results.clone()).collect();
    for v in results {
        // Codes and scales are read by `dequantize` alone.
        let plain = m.b.ty(v).encoding.is_plain();
        if plain && (!uses(m.b.graph(), v) || m.below(4) == 0) {
            m.b.output(v);
        }
    }
    Drawn { graph: m.b.finish().unwrap(), inputs: m.inputs }
}

impl Maker {
    fn below(&mut self, n: usize) -> usize {
        self.noise.below(n as u64) as usize
    }

    fn choose<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn extent(name: &str) -> i64 {
        let found = INDICES.iter().find(|(n, _)| *n == name);
        found.expect("an index of the list").1
    }

    fn indices(&self, v: ValueId) -> Vec<String> {
        self.b.ty(v).indices.iter().map(ToString::to_string).collect()
    }

    fn fits<S: AsRef<str>>(indices: &[S]) -> bool {
        let elements: i64 = indices.iter().map(|i| Self::extent(i.as_ref())).product();
        indices.len() <= RANK && elements <= ELEMENTS
    }

    fn numbers(&mut self, count: usize, one: impl Fn(&mut Maker) -> f64) -> Vec<f64> {
        (0..count).map(|_| one(self)).collect()
    }

    fn given<S: AsRef<str>>(
        &mut self,
        dtype: DType,
        indices: &[S],
        one: impl Fn(&mut Maker) -> f64,
    ) -> ValueId {
        let dims: Vec<usize> = indices.iter().map(|i| Self::extent(i.as_ref()) as usize).collect();
        let values = self.numbers(dims.iter().product(), one);
        let name = format!("x{}", self.inputs.len());
        self.inputs.push(Tensor::from_f64(dtype.class(), &dims, &values).unwrap());
        self.b.input(&name, dtype, indices)
    }

    /// An input of real numbers, multiples of 1/64 that every float dtype but the small holds.
    fn fresh<S: AsRef<str>>(&mut self, indices: &[S]) -> ValueId {
        let dtype = self.choose(&[DType::F32, DType::F32, DType::BF16, DType::F16]);
        let v = self.given(dtype, indices, |m| (m.below(255) as f64 - 127.0) / 64.0);
        self.floats.push(v);
        v
    }

    fn fresh_bool<S: AsRef<str>>(&mut self, indices: &[S]) -> ValueId {
        let v = self.given(DType::Bool, indices, |m| m.below(3).min(1) as f64);
        self.bools.push(v);
        v
    }

    /// Rows of an index.
    fn fresh_rows<S: AsRef<str>>(&mut self, of: &str, indices: &[S]) -> ValueId {
        let extent = Self::extent(of) as usize;
        self.given(DType::I32, indices, move |m| m.below(extent) as f64)
    }

    /// A float of the pool that passes, recent ones more often.
    fn float(&mut self, test: impl Fn(&[String]) -> bool) -> Option<ValueId> {
        let fit: Vec<ValueId> =
            self.floats.iter().copied().filter(|v| test(&self.indices(*v))).collect();
        let at = self.below(fit.len().max(1)).max(self.below(fit.len().max(1)));
        fit.get(at).copied()
    }

    /// A float of the pool with these indices and without those, or else an input.
    fn having(&mut self, with: &[&str], without: &[&str]) -> ValueId {
        let test = |own: &[String]| {
            let has = |i: &&str| own.iter().any(|o| o == i);
            with.iter().all(has) && !without.iter().any(has)
        };
        match self.float(test) {
            Some(v) if self.below(4) > 0 => v,
            _ => {
                let mut indices = with.to_vec();
                let more = self.choose(&["s", "l", "h", "i"]);
                if !with.contains(&more) && !without.contains(&more) {
                    let at = self.below(indices.len() + 1);
                    indices.insert(at, more);
                }
                self.fresh(&indices)
            }
        }
    }

    /// A mask over some of these indices, or none.
    fn mask<S: AsRef<str> + Clone>(&mut self, over: &[S]) -> Option<ValueId> {
        let own: Vec<&str> = over.iter().map(AsRef::as_ref).collect();
        let fit: Vec<ValueId> = self
            .bools
            .iter()
            .copied()
            .filter(|v| self.indices(*v).iter().all(|i| own.contains(&i.as_str())))
            .collect();
        match self.below(4) {
            0 | 1 => None,
            2 if !fit.is_empty() => Some(self.choose(&fit)),
            _ => {
                let kept: Vec<&str> = own.into_iter().filter(|_| self.below(3) > 0).collect();
                Some(self.fresh_bool(&kept))
            }
        }
    }

    fn keep(&mut self, v: ValueId) -> Result<(), IrError> {
        match self.b.ty(v).class() {
            Class::Float => self.floats.push(v),
            Class::Bool => self.bools.push(v),
            Class::Int => {}
        }
        Ok(())
    }

    /// Indices of both values, if a value may have so many.
    fn union(&mut self, x: ValueId, y: ValueId) -> Option<Vec<String>> {
        let mut all = self.indices(x);
        let more: Vec<String> = self.indices(y).into_iter().filter(|i| !all.contains(i)).collect();
        all.extend(more);
        if self.below(2) == 0 && !all.is_empty() {
            let by = self.below(all.len());
            all.rotate_left(by);
        }
        Self::fits(&all).then_some(all)
    }

    fn pair(&mut self) -> (ValueId, ValueId, Vec<String>) {
        let x = self.float(|_| true).expect("the pool begins with inputs");
        for _ in 0..8 {
            let y = self.float(|_| true).expect("the pool begins with inputs");
            if let Some(all) = self.union(x, y) {
                return (x, y, all);
            }
        }
        (x, x, self.indices(x))
    }

    fn map(&mut self) -> Result<(), IrError> {
        let (x, y, all) = self.pair();
        let text = self.choose(&[
            "x * 0.5 + y",
            "max(x, y) - 0.25",
            "x * sigmoid(y)",
            "select(x < 0, x * 0.5, x) - y",
            "tanh(x) + min(y, 1)",
            "x / (1 + abs(y))",
            "sqrt(abs(x)) + cos(y)",
            "exp(-abs(x)) * y + log(1 + abs(x))",
        ]);
        let r = self.b.map(text, &[("x", x), ("y", y)], &all)?;
        self.keep(r)
    }

    fn compare(&mut self) -> Result<(), IrError> {
        let (x, y, all) = self.pair();
        let r = self.b.map("x > 0.123 | y < -0.345", &[("x", x), ("y", y)], &all)?;
        self.keep(r)
    }

    /// Folds truth values, or chooses by one.
    fn truth(&mut self) -> Result<(), IrError> {
        let m = match self.bools.clone() {
            all if all.is_empty() => self.fresh_bool(&["s", "t"]),
            all => self.choose(&all),
        };
        let own = self.indices(m);
        if self.below(2) == 0 && !own.is_empty() {
            let at = self.below(own.len());
            let mut kept = own;
            kept.remove(at);
            let op = self.choose(&["any", "all"]);
            let r = self.b.reduce(op, m, None, &kept)?;
            return self.keep(r);
        }
        let x = self.float(|_| true).expect("the pool begins with inputs");
        let Some(all) = self.union(x, m) else { return Ok(()) };
        let r = self.b.map("select(m, x, 0.5)", &[("m", m), ("x", x)], &all)?;
        self.keep(r)
    }

    fn reduce(&mut self) -> Result<(), IrError> {
        let x = self.having(&["s"], &[]);
        let own = self.indices(x);
        let mut kept = own.clone();
        for _ in 0..1 + self.below(2).min(own.len() - 1) {
            let at = self.below(kept.len());
            kept.remove(at);
        }
        let by = self.below(kept.len().max(1));
        if !kept.is_empty() {
            kept.rotate_left(by);
        }
        let mask = self.mask(&own);
        let op = self.choose(&["sum", "max", "min"]);
        let r = self.b.reduce(op, x, mask, &kept)?;
        self.keep(r)
    }

    fn contract(&mut self) -> Result<(), IrError> {
        let x = self.having(&[], &[]);
        let own = self.indices(x);
        let (mut ours, mut kept) = (vec![], vec![]);
        for i in &own {
            match self.below(3) {
                // Summed.
                0 => ours.push(i.clone()),
                // A batch of both.
                1 => {
                    ours.push(i.clone());
                    kept.push(i.clone());
                }
                _ => kept.push(i.clone()),
            }
        }
        let more = self.choose(&["o", "d", "e", "f"]).to_string();
        if !own.contains(&more) {
            ours.push(more.clone());
            let at = self.below(kept.len() + 1);
            kept.insert(at, more);
        }
        if !Self::fits(&ours) || !Self::fits(&kept) {
            return Ok(());
        }
        let by = self.below(ours.len().max(1));
        if !ours.is_empty() {
            ours.rotate_left(by);
        }
        let w = self.fresh(&ours);
        let r = self.b.contract(x, w, &kept)?;
        self.keep(r)
    }

    fn softmax(&mut self) -> Result<(), IrError> {
        let x = self.having(&["t"], &[]);
        let own = self.indices(x);
        let (index, mask) = (self.choose(&own), self.mask(&own));
        let r = self.b.softmax(x, mask, &index)?;
        self.keep(r)
    }

    /// The order of inputs: what is computed may be near a tie.
    fn topk(&mut self) -> Result<(), IrError> {
        let own = self.choose(&[&["s", "e"][..], &["e", "h"], &["e"]]);
        let x = self.fresh(own);
        let mask = self.mask(own);
        let into = self.choose(&["k", "t", "e2"]);
        let chosen = self.b.topk(x, mask, "e", into)?;
        let r = self.b.map("float(c) * 0.25", &[("c", chosen)], &self.indices(chosen))?;
        self.keep(r)?;
        let y = self.fresh(&["e", "l"]);
        let r = self.b.gather(y, chosen, None, "e")?;
        self.keep(r)
    }

    fn gather(&mut self) -> Result<(), IrError> {
        let index = self.choose(&["d", "s", "f"]);
        let x = self.having(&[index], &["k", "t"]);
        let own = self.indices(x);
        let shared: Vec<String> =
            own.iter().filter(|i| *i != index).filter(|_| self.below(2) == 0).cloned().collect();
        let mut rows = shared;
        rows.insert(0, self.choose(&["k", "t"]).to_string());
        let at = own.iter().position(|i| i == index).expect("x has it");
        let mut result = own;
        result[at] = rows[0].clone();
        if !Self::fits(&result) {
            return Ok(());
        }
        let rows = self.fresh_rows(index, &rows);
        let mask = self.mask(&result);
        let r = self.b.gather(x, rows, mask, index)?;
        self.keep(r)
    }

    fn scatter(&mut self) -> Result<(), IrError> {
        let x = self.having(&["k"], &["e"]);
        let own = self.indices(x);
        let of = own.iter().filter(|i| *i == "k" || self.below(2) == 0).cloned();
        let of: Vec<String> = of.collect();
        let rows = self.fresh_rows("e", &of);
        let result: Vec<String> =
            own.iter().map(|i| if i == "k" { "e".into() } else { i.clone() }).collect();
        if !Self::fits(&result) {
            return Ok(());
        }
        let r = self.b.scatter(rows, x, "k", "e")?;
        self.keep(r)
    }

    fn slice(&mut self) -> Result<(), IrError> {
        let x = self.having(&["e"], &["d", "k", "l"]);
        let into = self.choose(&["d", "k", "l"]);
        let room = 8 - Self::extent(into) as usize;
        let start = self.below(room + 1) as i64;
        let r = self.b.slice(x, "e", into, start)?;
        self.keep(r)
    }

    fn concat(&mut self) -> Result<(), IrError> {
        let x = self.having(&["d"], &["f", "g"]);
        let own = self.indices(x);
        let other: Vec<String> =
            own.iter().map(|i| if i == "d" { "f".into() } else { i.clone() }).collect();
        let result: Vec<String> =
            own.iter().map(|i| if i == "d" { "g".into() } else { i.clone() }).collect();
        if !Self::fits(&result) {
            return Ok(());
        }
        let dtype = self.b.ty(x).dtype();
        let y = self.given(dtype, &other, |m| (m.below(255) as f64 - 127.0) / 64.0);
        let parts = if self.below(2) == 0 { [(x, "d"), (y, "f")] } else { [(y, "f"), (x, "d")] };
        let r = self.b.concat(&parts, "g")?;
        self.keep(r)
    }

    fn split(&mut self) -> Result<(), IrError> {
        let x = self.having(&["c"], &["d", "h"]);
        let into = self.choose(&[["h", "d"], ["d", "h"]]);
        if self.indices(x).len() >= RANK {
            return Ok(());
        }
        let r = self.b.split(x, "c", &into)?;
        self.keep(r)
    }

    fn merge(&mut self) -> Result<(), IrError> {
        let x = self.having(&["d", "h"], &["c"]);
        let from = self.choose(&[["h", "d"], ["d", "h"]]);
        let r = self.b.merge(x, &from, "c")?;
        self.keep(r)
    }

    fn rename(&mut self) -> Result<(), IrError> {
        let (from, to) = self.choose(&[("d", "d2"), ("e", "e2")]);
        let x = self.having(&[from], &[to]);
        let r = self.b.rename(x, &[(from, to)])?;
        self.keep(r)
    }

    fn rms_norm(&mut self) -> Result<(), IrError> {
        let x = self.having(&["f"], &[]);
        let own = self.indices(x);
        let index = self.choose(&own);
        let w = self.fresh(&[&index]);
        let r = self.b.rms_norm(x, w, &index, 0.01)?;
        self.keep(r)
    }

    fn rope(&mut self) -> Result<(), IrError> {
        let pos = self.b.iota(3, "s")?;
        let freq = self.given(DType::F32, &["i"], |m| m.below(64) as f64 / 64.0);
        let table = self.b.rope_table(pos, freq, "z", 0.75)?;
        let own = self.choose(&[["s", "h", "i", "z"], ["s", "h", "z", "i"]]);
        let x = self.fresh(&own);
        let r = self.b.rope(x, table, "z")?;
        self.keep(r)
    }

    fn swiglu(&mut self) -> Result<(), IrError> {
        let x = self.float(|_| true).expect("the pool begins with inputs");
        let y = self.fresh(&self.indices(x));
        let r = self.b.swiglu(x, y)?;
        self.keep(r)
    }

    /// Rounds inputs: what is computed may be near the middle between two numbers.
    fn cast(&mut self) -> Result<(), IrError> {
        let x = self.given(DType::F32, &["s", "o"], |m| (m.below(2001) as f64 - 1000.0) / 640.0);
        let to = self.choose(&[DType::BF16, DType::F16, DType::F32]);
        let r = self.b.cast(x, to)?;
        self.keep(r)
    }

    fn iota(&mut self) -> Result<(), IrError> {
        let index = self.choose(&["s", "o", "l"]);
        let p = self.b.iota(self.noise.0 as i64 & 7, index)?;
        let r = self.b.map("float(p) * 0.125", &[("p", p)], &[index])?;
        self.keep(r)
    }

    fn constant(&mut self) -> Result<(), IrError> {
        let index = self.choose(&["d", "h", "l"]);
        let r = match self.below(2) {
            0 => self.b.splat(-0.375, &[index])?,
            _ => {
                let values = self.numbers(Self::extent(index) as usize, |m| m.below(9) as f64);
                self.b.constant(DType::F32, &values, &[index])?
            }
        };
        self.keep(r)
    }

    fn quantize(&mut self) -> Result<(), IrError> {
        let x = self.given(DType::F32, &["s", "o"], |m| (m.below(2001) as f64 - 1000.0) / 320.0);
        let to = self.choose(&["i8<f32 1x4>", "fp8_e4m3<f32 2x8>", "fp4_e2m1<e8m0 1x32>"]);
        let q = self.b.quantize(x, to.parse().expect("an encoding"))?;
        let r = self.b.dequantize(q)?;
        self.keep(r)
    }

    fn attention(&mut self) -> Result<(), IrError> {
        let q = self.fresh(&["s", "h", "d"]);
        let (keys, values) = self
            .choose(&[(&["t", "h", "d"][..], &["t", "h", "f"][..]), (&["t", "d"], &["t", "f"])]);
        let (k, v) = (self.fresh(keys), self.fresh(values));
        let mask = self.mask(&["s", "t"]);
        let scores = self.b.contract(q, k, &["s", "h", "t"])?;
        let scores = self.b.map("0.4 * x", &[("x", scores)], &["s", "h", "t"])?;
        let shares = self.b.softmax(scores, mask, "t")?;
        let r = self.b.contract(shares, v, &["s", "h", "f"])?;
        self.keep(r)
    }

    fn experts(&mut self) -> Result<(), IrError> {
        let x = self.fresh(&["s", "d"]);
        let scores = self.fresh(&["s", "e"]);
        let chosen = self.b.topk(scores, None, "e", "k")?;
        let picked = self.b.gather(scores, chosen, None, "e")?;
        let shares = self.b.softmax(picked, None, "k")?;
        let [gate, up] = [self.fresh(&["e", "f", "d"]), self.fresh(&["e", "f", "d"])];
        let down = self.fresh(&["e", "d", "f"]);
        let [gate, up, down] = [gate, up, down].map(|w| self.b.gather(w, chosen, None, "e"));
        let gate = self.b.contract(x, gate?, &["s", "k", "f"])?;
        let up = self.b.contract(x, up?, &["s", "k", "f"])?;
        let inner = self.b.swiglu(gate, up)?;
        let each = self.b.contract(inner, down?, &["s", "k", "d"])?;
        let r = self.b.contract(each, shares, &["s", "d"])?;
        self.keep(r)
    }
}
