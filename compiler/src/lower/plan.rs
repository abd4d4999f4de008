//! The plan of an entry point: block calls to launches, buffers to places in the arena.

use crate::lower::arena::{Temp, lay_out};
use crate::lower::attention::lists::StepList;
use crate::lower::block::{self, BlockInput};
use crate::lower::called::{Called, Held, stored_dims};
use crate::lower::code::{BlockArg, BlockCode, BlockGrid, Kernels, StepInput};
use crate::lower::constant;
use crate::lower::error::LowerError;
use crate::lower::partition::{Partition, partition};
use crate::lower::precision;
use crate::lower::probe;
use crate::lower::schedule::RowBucket;
use crate::lower::size::{bytes_of, size_expr};
use crate::lower::states::{rows, used, with_states};
use crate::lower::variant::{Variant, conditions};
use crate::options::Options;
use crate::pack::Packed;
use artifact::plan::{
    Arg, Bucket, Buffer, Condition, Entry, Grid, Kernel, Launch, PLAN_VERSION, Place, Plan, Step,
    Tensor, Weight,
};
use artifact::size::SizeExpr;
use check::Certificate;
use ir::device::DeviceSpec;
use ir::dim::{Dim, Name};
use ir::dtype::{DType, Encoding};
use ir::graph::program::{self, Call, Program};
use ir::graph::{Graph, ValueId};
use std::collections::{BTreeMap, HashMap};

/// Step symbols, as the runtime binds them: rows of the step, sequences, rows whose logits are
/// wanted, pages of a sequence at most, longest context, pages that the states have.
pub const SYMBOLS: [&str; 6] = ["n", "b", "m", "mp", "t", "pg"];

/// Everything lowering makes of a program.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Distinct kernels, in the order of [`Plan::kernels`].
    pub kernels: Vec<ir::kernel::Kernel>,
    /// The plan. Offsets of weights are set; scratch sizes wait for the code.
    pub plan: Plan,
    /// What each of [`Plan::weights`] is packed from.
    pub packed: Vec<Packed>,
    /// Of each of the entry's buckets the calls, in order.
    pub called: Vec<Vec<Called>>,
    /// How the forms of its blocks came about, where they were rewritten.
    pub certificates: Vec<Certificate>,
}

/// Lowers the entry point `forward` of a program, of one form in all steps.
///
/// Errors: E0260 to E0263, E0284.
pub fn lower(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<Lowered, LowerError> {
    lower_variants(&Variant::of_all(program), options, device)
}

/// Lowers the entry point `forward` of equal programs that differ in form from step to step, and
/// keep the same of a sequence. They are tried in order.
///
/// Errors: E0260 to E0263, E0284.
pub fn lower_variants(
    variants: &[Variant],
    options: &Options,
    device: &DeviceSpec,
) -> Result<Lowered, LowerError> {
    let stated =
        |v: &Variant| Ok(Variant { program: with_states(&v.program, options)?, ..v.clone() });
    let variants: Vec<Variant> = variants.iter().map(stated).collect::<Result<_, LowerError>>()?;
    let Some(first) = variants.first() else { return Err(LowerError::Entry("forward".into())) };
    let mut planner = Planner::new(&first.program, options, device);
    let (entry, called) = planner.entry("forward", &variants)?;
    let probes = probe::probes(&mut planner.kernels)?;
    let plan = Plan {
        version: PLAN_VERSION,
        symbols: SYMBOLS.iter().map(ToString::to_string).collect(),
        places: vec![Place { name: "cpu".into(), kind: "cpu".into() }],
        kernels: planner.kernels.all().iter().map(kernel_row).collect(),
        weights: planner.weight_rows(),
        states: rows(&first.program, options),
        entries: vec![entry],
        probes,
    };
    Ok(Lowered {
        kernels: planner.kernels.all().to_vec(),
        plan,
        packed: planner.packed,
        called,
        certificates: vec![],
    })
}

pub(super) fn symbols() -> Vec<Name> {
    SYMBOLS.iter().map(|s| Name::from(*s)).collect()
}

/// The row of the plan's table.
pub(crate) fn kernel_row(kernel: &ir::kernel::Kernel) -> Kernel {
    let position = |name: &Name| SYMBOLS.iter().position(|s| **s == **name);
    Kernel {
        name: kernel.name.to_string(),
        family: kernel.family.to_string(),
        params: kernel.params.len() as u32,
        symbols: kernel
            .symbols
            .keys()
            .map(|s| position(s).expect("generators use step symbols only") as u32)
            .collect(),
        scratch_bytes: 0,
    }
}

struct Planner<'a> {
    program: &'a Program,
    options: &'a Options,
    device: &'a DeviceSpec,
    kernels: Kernels,
    packed: Vec<Packed>,
    /// Their sizes.
    packed_bytes: Vec<u64>,
}

/// Blocks of an entry, partitioned, with the weights that its calls bind.
struct Blocks<'a> {
    /// Each block once for each precision in which calls want its products.
    partitions: Vec<(Name, Partition)>,
    /// Position in `partitions`, for each call.
    of_call: Vec<usize>,
    bindings: HashMap<Name, HashMap<ValueId, Vec<&'a program::Weight>>>,
}

impl<'a> Planner<'a> {
    fn new(program: &'a Program, options: &'a Options, device: &'a DeviceSpec) -> Self {
        let (packed, packed_bytes) = (vec![], vec![]);
        let kernels = Kernels::new(options.is_batch_invariant());
        Planner { program, options, device, kernels, packed, packed_bytes }
    }

    fn block(&self, call: &Call) -> &'a Graph {
        self.program.block(&call.block).expect("a verified program has the blocks it calls")
    }

    fn blocks(&self, entry: &program::Entry) -> Result<Blocks<'a>, LowerError> {
        let mut blocks = Blocks { partitions: vec![], of_call: vec![], bindings: HashMap::new() };
        let operands = precision::operands(self.program, entry, self.options)?;
        for (call, operands) in entry.calls.iter().zip(operands) {
            let graph = self.block(call);
            let same =
                |(block, p): &(Name, Partition)| *block == call.block && p.operands == operands;
            let known = blocks.partitions.iter().position(same);
            blocks.of_call.push(known.unwrap_or(blocks.partitions.len()));
            if known.is_none() {
                blocks.partitions.push((call.block.clone(), partition(graph, operands)?));
            }
            let bound = blocks.bindings.entry(call.block.clone()).or_default();
            for (param, arg) in graph.params.iter().zip(&call.args) {
                if let program::Arg::Weight(name) = arg {
                    let weight = self.program.weight(name);
                    bound.entry(*param).or_default().extend(weight);
                }
            }
        }
        Ok(blocks)
    }

    fn entry(
        &mut self,
        name: &str,
        variants: &'a [Variant],
    ) -> Result<(Entry, Vec<Vec<Called>>), LowerError> {
        let missing = || LowerError::Entry(Name::from(name));
        let entry = self.program.entry(name).ok_or_else(missing)?;
        let mut inputs: Vec<Tensor> =
            entry.inputs.iter().map(|i| tensor(&i.name, i.dtype, &step_dims(&i.dims))).collect();
        for input in [StepInput::Pos, StepInput::Slot, StepInput::Pages, StepInput::Seg] {
            if !inputs.iter().any(|i| i.name == input.name()) {
                inputs.push(tensor(input.name(), DType::I32, &input.dims()));
            }
        }
        let mut outputs = vec![];
        let (mut buckets, mut called) = (vec![], vec![]);
        for Variant { bucket, steps: ranges, program } in variants {
            self.program = program;
            let (entry, bucket) = (program.entry(name).ok_or_else(missing)?, *bucket);
            let blocks = self.blocks(entry)?;
            let mut walk = Walk::new(self, entry, &inputs);
            walk.run(&blocks, bucket)?;
            outputs = walk.outputs.iter().flatten().cloned().collect();
            let (steps, temps) = (walk.steps, walk.temps);
            called.push(walk.called);
            let when = ranges.iter().map(|range| conditions(bucket, *range)).collect();
            buckets.push(lay_out_bucket(bucket, when, steps, temps));
        }
        Ok((Entry { name: name.into(), inputs, outputs, buckets }, called))
    }

    /// The weight that a call binds to a parameter.
    fn bound(&self, frame: &Frame<'a>, param: ValueId) -> Option<&'a program::Weight> {
        let at = frame.graph.params.iter().position(|p| *p == param)?;
        match frame.call.args.get(at)? {
            program::Arg::Weight(name) => self.program.weight(name),
            _ => None,
        }
    }

    /// The row of the plan's table for a weight packed so.
    ///
    /// Errors: E0284.
    fn pack(&mut self, packed: Packed) -> Result<u32, LowerError> {
        if let Some(at) = self.packed.iter().position(|p| *p == packed) {
            return Ok(at as u32);
        }
        let bytes = match packed.layout() {
            Ok(layout) => layout.size_bytes(),
            Err(error) => return Err(LowerError::Weight { weight: packed.name(), error }),
        };
        self.packed.push(packed);
        self.packed_bytes.push(bytes);
        Ok(self.packed.len() as u32 - 1)
    }

    /// Rows of the plan's table, each at the next page or, if small, at the next cache line.
    fn weight_rows(&self) -> Vec<Weight> {
        const PAGE: u64 = 4096;
        const LINE: u64 = 64;
        let mut end = 0u64;
        let row = |(p, bytes): (&Packed, &u64)| {
            let bytes = *bytes;
            let offset = end.next_multiple_of(if bytes >= PAGE { PAGE } else { LINE });
            end = offset + bytes;
            Weight {
                name: p.name(),
                offset,
                bytes,
                encoding: p.encoding.to_string(),
                dims: p.dims.clone(),
                packing: p.packing.as_ref().map_or(String::new(), |p| p.to_string()),
                source: p.sources(self.program),
                place: 0,
            }
        };
        self.packed.iter().zip(&self.packed_bytes).map(row).collect()
    }
}

/// Extents in the runtime's symbols: new tokens of a sequence become the rows of the step.
pub(super) fn step_dims(dims: &[Dim]) -> Vec<Dim> {
    let rows = |name: &str| (name == "s").then(|| Dim::symbol("n"));
    dims.iter().map(|d| d.substitute(&rows)).collect()
}

fn tensor(name: &str, dtype: DType, dims: &[Dim]) -> Tensor {
    let symbols = symbols();
    let bytes = bytes_of(dims, dtype.into());
    Tensor {
        name: name.into(),
        dtype: dtype.to_string(),
        dims: dims.iter().map(|d| size_expr(d, &symbols)).collect(),
        bytes: size_expr(&bytes, &symbols),
    }
}

/// A context, and pages of it, at which memory is laid out well: rows over the context are larger
/// than those of the step, and share places among themselves.
const TYPICAL_CONTEXT: i64 = 1 << 10;

/// Places a bucket's buffers and turns its table into the plan's.
fn lay_out_bucket(
    bucket: RowBucket,
    when: Vec<Vec<Condition>>,
    steps: Vec<Step>,
    temps: Vec<Temp>,
) -> Bucket {
    let symbols = symbols();
    let typical = |name: &str| match name {
        "n" => bucket.typical,
        "t" | "mp" => TYPICAL_CONTEXT,
        _ => 1,
    };
    let arena = lay_out(&temps, &symbols, &typical);
    let buffer = |(temp, offset): (&Temp, &SizeExpr)| Buffer {
        name: temp.name.clone(),
        place: 0,
        offset: offset.clone(),
        bytes: size_expr(&temp.bytes, &symbols),
    };
    Bucket {
        name: bucket.name.into(),
        when,
        arenas: vec![arena.bytes],
        buffers: temps.iter().zip(&arena.offsets).map(buffer).collect(),
        steps,
        forms: vec![],
    }
}

/// Where a program's value is, while the calls are walked.
#[derive(Clone, Debug)]
enum Home {
    /// An input of the entry.
    Input(u32),
    /// An output of the entry.
    Output(u32),
    /// Buffers, by how it is stored in each.
    Buffers(BTreeMap<Encoding, u32>),
}

/// One walk over an entry's calls, for one bucket.
struct Walk<'p, 'a> {
    planner: &'p mut Planner<'a>,
    entry: &'a program::Entry,
    inputs: &'p [Tensor],
    /// In the order of the entry's outputs, as calls make them.
    outputs: Vec<Option<Tensor>>,
    homes: HashMap<Name, Home>,
    temps: Vec<Temp>,
    /// Buffer of each list that the step begins with.
    lists: BTreeMap<StepList, u32>,
    steps: Vec<Step>,
    /// Calls so far.
    called: Vec<Called>,
    phase: u32,
}

/// A call on its way: what its block's names stand for.
struct Frame<'c> {
    graph: &'c Graph,
    call: &'c Call,
    values: HashMap<ValueId, Home>,
    temps: Vec<u32>,
}

impl<'p, 'a> Walk<'p, 'a> {
    fn new(planner: &'p mut Planner<'a>, entry: &'a program::Entry, inputs: &'p [Tensor]) -> Self {
        let homes = entry
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| (input.name.clone(), Home::Input(i as u32)))
            .collect();
        Walk {
            planner,
            entry,
            inputs,
            outputs: vec![None; entry.outputs.len()],
            homes,
            temps: vec![],
            lists: BTreeMap::new(),
            steps: vec![],
            called: vec![],
            phase: 0,
        }
    }

    fn run(&mut self, blocks: &Blocks<'a>, bucket: RowBucket) -> Result<(), LowerError> {
        let mut lowered: HashMap<usize, BlockCode> = HashMap::new();
        for (call, of) in self.entry.calls.iter().zip(&blocks.of_call) {
            let graph = self.planner.block(call);
            let partition = &blocks.partitions[*of].1;
            if !lowered.contains_key(of) {
                let input = BlockInput {
                    graph,
                    partition,
                    program: self.planner.program,
                    bindings: &blocks.bindings[&call.block],
                    options: self.planner.options,
                    device: self.planner.device,
                    bucket,
                };
                let code = block::lower(&input, &mut self.planner.kernels)?;
                lowered.insert(*of, code);
            }
            self.call(call, graph, partition, &lowered[of], bucket)?;
        }
        Ok(())
    }

    fn temp(&mut self, name: &str, bytes: Dim) -> u32 {
        let (first, last) = (u32::MAX, 0);
        self.temps.push(Temp { name: name.into(), bytes, first, last });
        self.temps.len() as u32 - 1
    }

    /// A barrier; what follows is the next phase.
    fn barrier(&mut self) {
        if !matches!(self.steps.last(), None | Some(Step::Barrier)) {
            self.steps.push(Step::Barrier);
            self.phase += 1;
        }
    }

    fn call(
        &mut self,
        call: &'a Call,
        graph: &'a Graph,
        partition: &Partition,
        code: &BlockCode,
        bucket: RowBucket,
    ) -> Result<(), LowerError> {
        let mut frame = self.frame(call, graph, partition, code)?;
        let (first, mut phase) = (self.launches(), None);
        for launch in &code.launches {
            for arg in &launch.args {
                if let BlockArg::List(list) = arg {
                    self.make_list(*list, bucket)?;
                }
            }
            if phase != Some(launch.phase) {
                self.barrier();
                phase = Some(launch.phase);
            }
            let args: Vec<Arg> =
                launch.args.iter().map(|a| self.arg(&mut frame, a)).collect::<Result<_, _>>()?;
            let symbols = symbols();
            let grid = match &launch.grid {
                BlockGrid::Dense(instances) => Grid::Dense(size_expr(instances, &symbols)),
                BlockGrid::List { list, each } => Grid::List {
                    list: self.arg(&mut frame, list)?,
                    each: size_expr(each, &symbols),
                },
            };
            let (kernel, origin) = (launch.kernel as u32, launch.origin.clone());
            let work = launch.work.sized(&symbols);
            self.steps.push(Step::Launch(Launch { kernel, place: 0, args, grid, origin, work }));
        }
        self.barrier();
        let values = frame.held(self.planner.options.page_tokens);
        self.called.push(Called { launches: first..self.launches(), values });
        Ok(())
    }

    /// Launches so far.
    fn launches(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Launch(_))).count()
    }

    /// Gives every stored value of a call its buffers, and its results their names.
    fn frame(
        &mut self,
        call: &'a Call,
        graph: &'a Graph,
        partition: &Partition,
        code: &BlockCode,
    ) -> Result<Frame<'a>, LowerError> {
        let mut values = HashMap::new();
        for (param, arg) in graph.params.iter().zip(&call.args) {
            if let program::Arg::Value(name) = arg {
                values.insert(*param, self.homes[name].clone());
            }
        }
        for (value, encodings) in &partition.stored {
            let result = graph.outputs.iter().position(|o| o == value);
            let name = result.and_then(|r| call.results.get(r));
            let position = |n: &Name| self.entry.outputs.iter().position(|o| o == n);
            let output = name.and_then(|n| Some((n, position(n)?)));
            let dims = stored_dims(graph, *value, self.planner.options.page_tokens);
            let home = match output {
                Some((name, at)) => {
                    self.outputs[at] = Some(tensor(name, DType::F32, &dims));
                    Home::Output(at as u32)
                }
                None => {
                    let name = format!("{}.{}", graph.name, graph.value(*value).name);
                    let buffer = |e: &Encoding| (*e, self.temp(&name, bytes_of(&dims, *e)));
                    Home::Buffers(encodings.iter().map(buffer).collect())
                }
            };
            values.insert(*value, home);
        }
        for (value, name) in graph.outputs.iter().zip(&call.results) {
            let home = values.get(value).cloned().ok_or_else(|| LowerError::Form {
                graph: graph.name.clone(),
                node: "output",
                found: format!("%{}", graph.value(*value).name),
                expected: "a value that the block computes".into(),
            })?;
            self.homes.insert(name.clone(), home);
        }
        let temps = code.temps.iter().map(|t| self.temp(t.name, t.bytes.clone())).collect();
        Ok(Frame { graph, call, values, temps })
    }

    /// Launches the kernel that makes a list, once.
    fn make_list(&mut self, list: StepList, bucket: RowBucket) -> Result<(), LowerError> {
        if self.lists.contains_key(&list) {
            return Ok(());
        }
        let rows_max = bucket.rows_max.min(i64::from(i32::MAX));
        let kernel = self.planner.kernels.intern(list.kernel(rows_max))? as u32;
        let buffer = self.temp(list.name(), list.bytes());
        self.temps[buffer as usize].first = self.phase;
        self.lists.insert(list, buffer);
        let args = vec![
            Arg::Input(self.step_input(StepInput::Seg)),
            Arg::Input(self.step_input(StepInput::Pos)),
            Arg::Buffer(buffer),
        ];
        let grid = Grid::Dense(SizeExpr::constant(1));
        let origin = list.name().replace('_', " ");
        let work = list.work().sized(&symbols());
        self.steps.push(Step::Launch(Launch { kernel, place: 0, args, grid, origin, work }));
        Ok(())
    }

    fn step_input(&self, input: StepInput) -> u32 {
        let at = self.inputs.iter().position(|i| i.name == input.name());
        at.expect("every entry has the step's inputs") as u32
    }

    /// Notes that a buffer is touched in the present phase.
    fn touch(&mut self, buffer: u32) -> Arg {
        let temp = &mut self.temps[buffer as usize];
        temp.first = temp.first.min(self.phase);
        temp.last = temp.last.max(self.phase);
        Arg::Buffer(buffer)
    }

    fn arg(&mut self, frame: &mut Frame<'a>, arg: &BlockArg) -> Result<Arg, LowerError> {
        Ok(match arg {
            BlockArg::Value(value, encoding) => match &frame.values[value] {
                Home::Input(i) => Arg::Input(*i),
                Home::Output(o) => Arg::Output(*o),
                Home::Buffers(all) => {
                    let buffer = all[encoding];
                    self.touch(buffer)
                }
            },
            BlockArg::Weight(w) => {
                let bound = |param| self.planner.bound(frame, param);
                let from = constant::grouped(frame.graph, &w.of, &w.axes, &bound)?;
                let dims = w.dims.iter().map(|d| *d as u64).collect();
                let (encoding, packing) = (w.encoding, w.packing.clone());
                Arg::Weight(self.planner.pack(Packed { from, encoding, dims, packing })?)
            }
            BlockArg::Numbers(from) => {
                let dims = from.dims.iter().map(|d| *d as u64).collect();
                let (from, encoding, packing) = (from.clone(), DType::F32.into(), None);
                Arg::Weight(self.planner.pack(Packed { from, encoding, dims, packing })?)
            }
            BlockArg::State(param) => self.state(frame, *param),
            BlockArg::Step(input) => Arg::Input(self.step_input(*input)),
            BlockArg::Temp(t) => self.touch(frame.temps[*t]),
            BlockArg::List(list) => self.touch(self.lists[list]),
        })
    }

    fn state(&self, frame: &Frame<'a>, param: ValueId) -> Arg {
        let at = frame.graph.params.iter().position(|p| *p == param);
        let program::Arg::State { state, layer } =
            &frame.call.args[at.expect("a state is a parameter")]
        else {
            unreachable!("a verified call binds states to state parameters")
        };
        let table = used(self.planner.program);
        let state = table.iter().position(|s| s.name == *state);
        Arg::State { state: state.expect("the call uses it") as u32, layer: *layer }
    }
}

impl Frame<'_> {
    /// Values that have rows of the step, where they lie.
    fn held(&self, page: u32) -> Vec<Held> {
        let places = |home: &Home| match home {
            Home::Input(i) => vec![(None, Arg::Input(*i))],
            Home::Output(o) => vec![(None, Arg::Output(*o))],
            Home::Buffers(all) => all.iter().map(|(e, b)| (Some(*e), Arg::Buffer(*b))).collect(),
        };
        let mut values: Vec<&ValueId> = self.values.keys().collect();
        values.sort_unstable();
        let held = |v: &ValueId| Held::of(self.graph, *v, places(&self.values[v]), page);
        values.into_iter().flat_map(held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::constant::Constant;

    #[test]
    fn weights_beyond_every_memory_are_refused() {
        let program = Program {
            name: "none".into(),
            symbols: Default::default(),
            blocks: vec![],
            weights: vec![],
            states: vec![],
            entries: vec![],
        };
        let (options, device) = (Options::default(), DeviceSpec::default());
        let dims = [1 << 40, 1 << 40];
        let packed = Packed {
            from: Constant::splat(1.0, &dims),
            encoding: DType::F32.into(),
            dims: dims.map(|d| d as u64).to_vec(),
            packing: None,
        };
        let refused = Planner::new(&program, &options, &device).pack(packed);
        assert_eq!(refused.map_err(|e| e.code()), Err("E0284"));
    }
}
