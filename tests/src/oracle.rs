//! A plan walked launch by launch, on copies of what each kernel reads and writes: with the kernel
//! interpreter, what native code and the runtime must agree with; or with native code, where a
//! test needs inputs and outputs that the runtime does not know.

use artifact::plan::{Arg, Grid, Launch, Step};
use artifact::size::SizeExpr;
use compiler::import::Imported;
use compiler::lower::Lowered;
use compiler::pack::pack;
use ir::kernel::Kernel;
use ir::kernel::interp::{Buffer, Machine, Real};
use std::collections::HashMap;

/// New tokens of a sequence.
pub struct Part<'a> {
    /// Their ids.
    pub tokens: &'a [i32],
    /// Tokens kept before.
    pub past: usize,
    /// Pages that hold the sequence.
    pub pages: &'a [i32],
}

/// A launch with its kernel and the values of the kernel's symbols.
pub struct Launched<'a> {
    /// The plan's row.
    pub launch: &'a Launch,
    /// What is launched.
    pub kernel: &'a Kernel,
    /// Values of its symbols, in order.
    pub symbols: Vec<i64>,
    /// Number of instances, or of instances for each tuple of the work list at this argument.
    pub grid: (i64, Option<usize>),
}

/// Runs a launch on its arguments' memory.
pub type Run<'r> = dyn FnMut(&Launched<'_>, &mut [Vec<u8>]) + 'r;

/// A model with its memory.
pub struct Oracle<'a> {
    lowered: &'a Lowered,
    weights: Vec<u8>,
    /// Per state, all layers.
    states: Vec<Vec<u8>>,
    pages: i64,
}

impl<'a> Oracle<'a> {
    /// Packs the weights and makes room for so many pages.
    pub fn new(imported: &Imported, lowered: &'a Lowered, pages: i64) -> Self {
        let mut weights: Vec<u8> = vec![];
        for (row, packed) in lowered.plan.weights.iter().zip(&lowered.packed) {
            weights.resize(row.offset as usize, 0);
            pack(packed, &imported.program, &*imported.weights, 1, &mut |bytes| {
                weights.extend(bytes);
                Ok::<(), compiler::error::ImportError>(())
            })
            .unwrap();
            assert_eq!(weights.len() as u64, row.offset + row.bytes, "{}", row.name);
        }
        let size = |s: &artifact::plan::State| {
            let page = s.bytes_per_token * u64::from(s.page_tokens);
            vec![0xff; (page * pages as u64 * u64::from(s.layers)) as usize]
        };
        let states = lowered.plan.states.iter().map(size).collect();
        Oracle { lowered, weights, states, pages }
    }

    /// Runs a step in the arithmetic of `T`; logits of every token, row by row.
    pub fn step<T: Real>(&mut self, parts: &[Part<'_>]) -> Vec<f32> {
        let outputs = self.walk(parts, &HashMap::new(), &mut interpret::<T>);
        outputs["logits"].iter().map(|w| f32::from_bits(*w)).collect()
    }

    /// Runs a step with inputs beside those of the host; all outputs, as 32-bit words.
    pub fn walk(
        &mut self,
        parts: &[Part<'_>],
        more: &HashMap<String, Vec<i32>>,
        run: &mut Run<'_>,
    ) -> HashMap<String, Vec<u32>> {
        let plan = &self.lowered.plan;
        let entry = &plan.entries[0];
        let host = HostInputs::new(parts, i64::from(plan.states[0].page_tokens), self.pages);
        let symbols: Vec<i64> = plan.symbols.iter().map(|s| host.symbol(s)).collect();
        let eval = |e: &SizeExpr| e.eval(&symbols).unwrap();
        let bucket = entry.buckets.iter().find(|b| b.covers(&symbols)).unwrap();
        let mut arena = vec![0xffu8; eval(&bucket.arenas[0]) as usize];
        let mut outputs: Vec<Vec<u8>> =
            entry.outputs.iter().map(|o| vec![0xff; eval(&o.bytes) as usize]).collect();
        let input = |name: &String| match more.get(name) {
            Some(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            None => host.bytes(name),
        };
        let inputs: Vec<Vec<u8>> = entry.inputs.iter().map(|i| input(&i.name)).collect();
        for step in &bucket.steps {
            let Step::Launch(launch) = step else { continue };
            let span = |i: u32| {
                let b = &bucket.buffers[i as usize];
                let at = eval(&b.offset) as usize;
                at..at + eval(&b.bytes) as usize
            };
            let mut memory = Memory { inputs: &inputs, arena: &mut arena, outputs: &mut outputs };
            self.launch(launch, &symbols, &span, &mut memory, run);
        }
        let words = |b: &Vec<u8>| b.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let names = entry.outputs.iter().map(|o| o.name.clone());
        names.zip(outputs.iter().map(words)).collect()
    }

    fn layer(&self, state: u32, layer: u32) -> std::ops::Range<usize> {
        let row = &self.lowered.plan.states[state as usize];
        let bytes = row.bytes_per_token as usize * row.page_tokens as usize * self.pages as usize;
        layer as usize * bytes..(layer as usize + 1) * bytes
    }

    fn launch(
        &mut self,
        launch: &Launch,
        symbols: &[i64],
        span: &dyn Fn(u32) -> std::ops::Range<usize>,
        memory: &mut Memory<'_>,
        run: &mut Run<'_>,
    ) {
        let kernel = &self.lowered.kernels[launch.kernel as usize];
        let row = &self.lowered.plan.kernels[launch.kernel as usize];
        // Arguments may share the arena: each kernel works on copies.
        let mut copies: Vec<Vec<u8>> = launch
            .args
            .iter()
            .map(|arg| match *arg {
                Arg::Buffer(b) => memory.arena[span(b)].to_vec(),
                Arg::Weight(w) => {
                    let row = &self.lowered.plan.weights[w as usize];
                    self.weights[row.offset as usize..(row.offset + row.bytes) as usize].to_vec()
                }
                Arg::State { state, layer } => {
                    self.states[state as usize][self.layer(state, layer)].to_vec()
                }
                Arg::Input(i) => memory.inputs[i as usize].clone(),
                Arg::Output(o) => memory.outputs[o as usize].clone(),
                Arg::Null => vec![],
            })
            .collect();
        let own: Vec<i64> = row.symbols.iter().map(|s| symbols[*s as usize]).collect();
        let grid = match &launch.grid {
            Grid::Dense(instances) => (instances.eval(symbols).unwrap(), None),
            Grid::List { list, each } => {
                let at = launch.args.iter().position(|a| a == list);
                (each.eval(symbols).unwrap(), Some(at.expect("a list is an argument")))
            }
        };
        run(&Launched { launch, kernel, symbols: own, grid }, &mut copies);
        for ((arg, p), bytes) in launch.args.iter().zip(&kernel.params).zip(copies) {
            match *arg {
                _ if !p.role.is_written() => {}
                Arg::Buffer(b) => memory.arena[span(b)].copy_from_slice(&bytes),
                Arg::State { state, layer } => {
                    let at = self.layer(state, layer);
                    self.states[state as usize][at].copy_from_slice(&bytes);
                }
                Arg::Output(o) => memory.outputs[o as usize] = bytes,
                Arg::Weight(_) | Arg::Input(_) | Arg::Null => panic!("a kernel writes a constant"),
            }
        }
    }
}

/// Memory of a step.
struct Memory<'a> {
    inputs: &'a [Vec<u8>],
    arena: &'a mut [u8],
    outputs: &'a mut [Vec<u8>],
}

/// Runs a launch by the kernel interpreter, in the arithmetic of `T`.
pub fn interpret<T: Real>(launched: &Launched<'_>, memory: &mut [Vec<u8>]) {
    let Launched { launch, kernel, symbols, grid } = launched;
    let place = || format!("{} ({})", launch.origin, kernel.name);
    let buffers = kernel.params.iter().zip(memory).map(|(p, bytes)| {
        if p.role.is_written() { Buffer::Write(bytes) } else { Buffer::Read(bytes) }
    });
    let mut machine = Machine::<T>::new(kernel, buffers.collect(), symbols)
        .unwrap_or_else(|e| panic!("{}: {e}", place()));
    let all = machine.instances().unwrap();
    if let (instances, None) = grid {
        assert_eq!(*instances, all, "{}", launch.origin);
    }
    machine.run(0..all).unwrap_or_else(|e| panic!("{}: {e}\n{kernel}", place()));
}

/// What the host tells a step.
struct HostInputs {
    ids: Vec<i32>,
    pos: Vec<i32>,
    seq: Vec<i32>,
    slot: Vec<i32>,
    pages: Vec<i32>,
    seg: Vec<i32>,
    page_count: i64,
    longest: i64,
    capacity: i64,
}

impl HostInputs {
    fn new(parts: &[Part<'_>], page: i64, capacity: i64) -> Self {
        let mut h = HostInputs {
            ids: vec![],
            pos: vec![],
            seq: vec![],
            slot: vec![],
            pages: vec![],
            seg: vec![0],
            page_count: parts.iter().map(|p| p.pages.len()).max().unwrap_or(0) as i64,
            longest: 0,
            capacity,
        };
        for (s, part) in parts.iter().enumerate() {
            for (i, id) in part.tokens.iter().enumerate() {
                let pos = part.past as i64 + i as i64;
                let slot = i64::from(part.pages[(pos / page) as usize]) * page + pos % page;
                h.ids.push(*id);
                h.pos.push(pos as i32);
                h.seq.push(s as i32);
                h.slot.push(slot as i32);
            }
            let mut pages = part.pages.to_vec();
            pages.resize(h.page_count as usize, 0);
            h.pages.extend(pages);
            h.seg.push(h.ids.len() as i32);
            h.longest = h.longest.max((part.past + part.tokens.len()) as i64);
        }
        h
    }

    fn symbol(&self, name: &str) -> i64 {
        match name {
            "n" | "m" => self.ids.len() as i64,
            "b" => self.seg.len() as i64 - 1,
            "mp" => self.page_count,
            "t" => self.longest,
            "pg" => self.capacity,
            other => panic!("no step symbol {other}"),
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let rows: Vec<i32> = (0..self.ids.len() as i32).collect();
        let values = match name {
            "ids" => &self.ids,
            "pos" => &self.pos,
            "seq" => &self.seq,
            "slot" => &self.slot,
            "pages" => &self.pages,
            "seg" => &self.seg,
            "rows" => &rows,
            other => panic!("no step input {other}"),
        };
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}
