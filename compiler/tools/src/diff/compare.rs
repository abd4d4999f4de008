//! What a launch wrote, against what the interpreter writes.

use super::report::{Found, Operand};
use crate::error::ToolError;
use artifact::Plan;
use artifact::plan::Launch;
use compiler::lower::Lowered;
use ir::dtype::{Class, DType, Encoding};
use ir::kernel::interp::{Buffer, Choice, InterpError, Machine, Real};
use ir::kernel::layout::{Layout, for_each_position};
use ir::kernel::{Kernel, Op, Role, Stmt};
use runtime::Launched;
use std::collections::BTreeMap;

/// How far beyond the error that f32 makes other code may be.
const SLACK: f64 = 8.0;
/// What sums of f32 in another order may differ by, where f32 and f64 happen to agree.
pub(crate) const REORDERED: f64 = 1e-5;
/// Rounding to a narrow type may go either way: so many of its steps.
pub(crate) const FLIPS: f64 = 2.0;
/// Rows whose numbers are smaller than this part of the tensor's are as good as zero.
pub(crate) const SMALL: f64 = 1e-6;

/// The kernels that launches name.
pub struct Launches<'a> {
    plan: &'a Plan,
    lowered: &'a Lowered,
}

/// A launch compared.
pub struct Compared {
    /// Greatest error as part of its tolerance.
    pub worst: f64,
    /// What is beyond, if anything.
    pub divergence: Option<Found>,
}

/// A launch with its memory.
struct Bound<'b> {
    kernel: &'b Kernel,
    symbols: Vec<i64>,
    launched: &'b Launched<'b>,
    /// Of parameters that are written, what was there before.
    before: &'b [Option<Vec<u8>>],
}

/// What a row's choice was made by.
pub struct Ranked {
    /// What was ranked; of those that took no part, nothing.
    pub scores: Vec<Option<f64>>,
    /// Least distance between the last that an earlier choice of the row took and the first that it
    /// left: which take part follows from those.
    pub margin: f64,
    /// The same distance of the last choice.
    pub cut: f64,
    /// What that took.
    pub taken: Vec<i32>,
}

impl Ranked {
    /// A row's last choice among all of its instance's.
    fn of(all: &[&Choice], row: usize) -> Option<Ranked> {
        let (last, earlier) = all.split_last()?;
        let rows = |c: &Choice| c.scores.len() / c.width;
        let scores = |c: &Choice| -> Option<Vec<Option<f64>>> {
            let span = row * c.width..(row + 1) * c.width;
            let scores = c.scores.get(span.clone())?.iter().zip(span);
            let takes = |at: usize| c.takes_part.get(at).copied().unwrap_or(true);
            Some(scores.map(|(s, at)| takes(at).then_some(*s)).collect())
        };
        let margin = |c: &Choice| {
            let mut ranked: Vec<f64> = scores(c)?.into_iter().flatten().collect();
            ranked.sort_by(|a, b| b.total_cmp(a));
            let taken = c.chosen.len() / rows(c);
            Some(ranked.get(taken.checked_sub(1)?)? - ranked.get(taken)?)
        };
        let deciding = earlier.iter().filter(|c| rows(c) == rows(last)).filter_map(|c| margin(c));
        let earlier = deciding.fold(f64::INFINITY, f64::min);
        let cut = margin(last).unwrap_or(f64::INFINITY);
        let count = last.chosen.len() / rows(last);
        let taken = last.chosen.get(row * count..(row + 1) * count)?.to_vec();
        Some(Ranked { scores: scores(last)?, margin: earlier, cut, taken })
    }
}

/// The worst element so far of a parameter.
struct Worst {
    position: Vec<u64>,
    element: u64,
    native: f64,
    expected: f64,
    error: f64,
    beyond: u64,
}

impl<'a> Launches<'a> {
    /// Of a plan, and what it was lowered with.
    pub fn new(plan: &'a Plan, lowered: &'a Lowered) -> Launches<'a> {
        Launches { plan, lowered }
    }

    /// What a launch runs.
    pub(crate) fn kernel(&self, launch: &Launch) -> &'a Kernel {
        &self.lowered.kernels[launch.kernel as usize]
    }

    /// Memory of the parameters that a launch writes.
    pub fn written(&self, launch: &Launch, launched: &Launched<'_>) -> Vec<Option<Vec<u8>>> {
        let params = self.kernel(launch).params.iter().enumerate();
        params.map(|(i, p)| p.role.is_written().then(|| launched.memory(i).to_vec())).collect()
    }

    /// Compares what a launch wrote with what the interpreter does.
    ///
    /// # Errors
    /// The interpreter's, as [`ToolError::Launch`].
    pub fn compare(
        &self,
        launch: &Launch,
        launched: &Launched<'_>,
        before: &[Option<Vec<u8>>],
    ) -> Result<Compared, ToolError> {
        let bound = self.bound(launch, launched, before);
        bound.compare().map_err(|error| self.refused(launch, error))
    }

    fn bound<'b>(
        &self,
        launch: &Launch,
        launched: &'b Launched<'b>,
        before: &'b [Option<Vec<u8>>],
    ) -> Bound<'b>
    where
        'a: 'b,
    {
        let row = &self.plan.kernels[launch.kernel as usize];
        let symbols = row.symbols.iter().map(|s| launched.symbols()[*s as usize]).collect();
        Bound { kernel: self.kernel(launch), symbols, launched, before }
    }

    fn refused(&self, launch: &Launch, error: InterpError) -> ToolError {
        let (origin, kernel) = (launch.origin.clone(), self.kernel(launch).name.to_string());
        ToolError::Launch { origin, kernel, error }
    }

    /// The instance that writes an element of a parameter, and what it reads.
    ///
    /// # Errors
    /// As [`Launches::compare`].
    pub(crate) fn writer(
        &self,
        launch: &Launch,
        launched: &Launched<'_>,
        before: &[Option<Vec<u8>>],
        at: (usize, u64),
    ) -> Result<(Option<i64>, Vec<Operand>), ToolError> {
        let bound = self.bound(launch, launched, before);
        bound.writer(at).map_err(|error| self.refused(launch, error))
    }

    /// What a launch chooses for each row of a parameter that it writes.
    ///
    /// # Errors
    /// As [`Launches::compare`].
    pub(crate) fn choices(
        &self,
        launch: &Launch,
        launched: &Launched<'_>,
        (param, width): (usize, u64),
    ) -> Result<Vec<Option<Ranked>>, ToolError> {
        let before = self.written(launch, launched);
        let bound = self.bound(launch, launched, &before);
        let chosen = bound.choices(param, width);
        chosen.map_err(|error| self.refused(launch, error))
    }
}

impl Bound<'_> {
    /// The kernel over copies of what it writes.
    fn machine<'m, T: Real>(
        &'m self,
        outs: &'m mut [Option<Vec<u8>>],
    ) -> Result<Machine<'m, T>, InterpError> {
        let buffer = |(i, out): (usize, &'m mut Option<Vec<u8>>)| match (out, self.role(i)) {
            (Some(bytes), _) => Buffer::Write(bytes),
            (None, Role::Prefetch) => Buffer::Absent,
            (None, _) => Buffer::Read(self.launched.memory(i)),
        };
        let buffers = outs.iter_mut().enumerate().map(buffer).collect();
        Machine::new(self.kernel, buffers, &self.symbols)
    }

    fn role(&self, param: usize) -> Role {
        self.kernel.params[param].role
    }

    /// What the interpreter writes.
    fn interpreted<T: Real>(&self) -> Result<Vec<Option<Vec<u8>>>, InterpError> {
        let mut outs = self.before.to_vec();
        let mut machine = self.machine::<T>(&mut outs)?;
        let all = machine.instances()?;
        machine.run(0..all)?;
        drop(machine);
        Ok(outs)
    }

    fn layout(&self, param: usize) -> Option<Layout> {
        let names: Vec<&str> = self.kernel.symbols.keys().map(|name| &**name).collect();
        let value_of = |name: &str| {
            let at = names.iter().position(|n| *n == name)?;
            self.symbols.get(at).copied()
        };
        self.kernel.params[param].ty.layout(&value_of).ok()
    }

    fn compare(&self) -> Result<Compared, InterpError> {
        let reference = self.interpreted::<f64>()?;
        let rounded = self.interpreted::<f32>()?;
        let mut compared = Compared { worst: 0.0, divergence: None };
        for (param, (reference, rounded)) in reference.iter().zip(&rounded).enumerate() {
            let (Some(reference), Some(rounded)) = (reference, rounded) else { continue };
            let native = self.launched.memory(param);
            if native == *reference {
                continue;
            }
            let Some(layout) = self.layout(param) else { continue };
            let tensor = Tensor::new(&layout, native, reference, rounded);
            let limit = self.limit(tensor.noise(), layout.encoding());
            let worst = tensor.worst(limit);
            compared.worst = compared.worst.max(worst.error / limit);
            if worst.beyond > 0 && compared.divergence.is_none() {
                let found = self.found(param, &layout, worst, limit)?;
                compared.divergence = Some(found);
            }
        }
        Ok(compared)
    }

    /// What a written tensor may differ by, as part of the greatest number of a row, given what f32
    /// makes of it and how it is stored.
    fn limit(&self, noise: f64, stored: Encoding) -> f64 {
        let narrow = narrowest(&self.kernel.body, self.kernel).max(step(stored));
        SLACK * noise + REORDERED + FLIPS * narrow
    }

    fn found(
        &self,
        param: usize,
        layout: &Layout,
        worst: Worst,
        limit: f64,
    ) -> Result<Found, InterpError> {
        let Worst { position, element, native, expected, error, beyond } = worst;
        let (instance, operands) = self.writer((param, element))?;
        Ok(Found {
            kernel: self.kernel.name.to_string(),
            family: self.kernel.family.to_string(),
            param: self.kernel.params[param].name.to_string(),
            position,
            native,
            expected,
            error,
            tolerance: limit,
            beyond,
            of: layout.dims().iter().product(),
            instance,
            operands,
        })
    }

    /// The instance that writes an element of a parameter, and what it reads.
    fn writer(
        &self,
        (param, element): (usize, u64),
    ) -> Result<(Option<i64>, Vec<Operand>), InterpError> {
        let mut outs = self.before.to_vec();
        let mut machine = self.machine::<f64>(&mut outs)?;
        let all = machine.instances()?;
        machine.run(0..all)?;
        let instance = machine.writer(param, element);
        drop(machine);
        Ok((instance, instance.map_or(Ok(vec![]), |instance| self.operands(instance))?))
    }

    /// What is chosen for each row of a parameter, `width` elements long.
    fn choices(&self, param: usize, width: u64) -> Result<Vec<Option<Ranked>>, InterpError> {
        let mut outs = self.before.to_vec();
        let mut machine = self.machine::<f64>(&mut outs)?;
        machine.watch();
        let all = machine.instances()?;
        machine.run(0..all)?;
        let rows =
            self.layout(param).map_or(0, |l| l.dims().iter().product::<u64>()) / width.max(1);
        let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
        let mut of_row = |row: u64| {
            let instance = machine.writer(param, row * width)?;
            let at = seen.entry(instance).or_default();
            *at += 1;
            let own = machine.choices().iter().filter(|c| c.instance == instance);
            Ranked::of(&own.collect::<Vec<&Choice>>(), *at - 1)
        };
        Ok((0..rows).map(&mut of_row).collect())
    }

    /// What one instance reads of each parameter.
    fn operands(&self, instance: i64) -> Result<Vec<Operand>, InterpError> {
        let mut outs = self.before.to_vec();
        let mut machine = self.machine::<f64>(&mut outs)?;
        machine.watch();
        machine.run(instance..instance + 1)?;
        let read = |param: usize| {
            let (span, layout) = (machine.loaded(param)?, self.layout(param)?);
            let memory = match &self.before[param] {
                Some(before) => before,
                None => self.launched.memory(param),
            };
            let (mut range, mut not_finite) = ([f64::INFINITY, f64::NEG_INFINITY], 0);
            let extents: Vec<u64> = span.iter().map(|s| s.end - s.start).collect();
            for_each_position(&extents, &mut |at| {
                let position: Vec<u64> = at.iter().zip(&span).map(|(i, s)| i + s.start).collect();
                let number = layout.read(memory, &position);
                match number.is_finite() {
                    true => range = [range[0].min(number), range[1].max(number)],
                    false => not_finite += 1,
                }
            });
            let span = span.into_iter().map(|s| [s.start, s.end]).collect();
            let param = self.kernel.params[param].name.to_string();
            Some(Operand { param, span, range, not_finite })
        };
        Ok((0..self.kernel.params.len()).filter_map(read).collect())
    }
}

/// One tensor, as three wrote it, in rows: the positions along its last axis.
struct Tensor {
    /// Whether its numbers are whole.
    is_exact: bool,
    /// Greatest number of the reference.
    greatest: f64,
    rows: Vec<Row>,
}

/// Numbers of a row, as three wrote them.
struct Row {
    first: u64,
    position: Vec<u64>,
    native: Vec<f64>,
    /// In f64.
    reference: Vec<f64>,
    /// In f32.
    rounded: Vec<f64>,
}

/// Difference of two numbers as part of another; of those that are not finite, all or nothing.
pub(crate) fn apart(a: f64, b: f64, scale: f64) -> f64 {
    match (a.is_finite(), b.is_finite()) {
        _ if a == b || a.is_nan() && b.is_nan() => 0.0,
        (true, true) => (a - b).abs() / scale,
        _ => f64::INFINITY,
    }
}

pub(crate) fn greatest(numbers: &[f64]) -> f64 {
    numbers.iter().filter(|n| n.is_finite()).fold(0.0, |most, n| most.max(n.abs()))
}

impl Tensor {
    fn new(layout: &Layout, native: &[u8], reference: &[u8], rounded: &[u8]) -> Tensor {
        let dims = layout.dims();
        let width = dims.last().copied().unwrap_or(1);
        let (mut rows, mut element) = (Vec::<Row>::new(), 0);
        for_each_position(dims, &mut |position| {
            if element % width == 0 {
                let (native, reference, rounded) = (vec![], vec![], vec![]);
                let (first, position) = (element, position.to_vec());
                rows.push(Row { first, position, native, reference, rounded });
            }
            let row = rows.last_mut().expect("a row is begun with its first element");
            row.native.push(layout.read(native, position));
            row.reference.push(layout.read(reference, position));
            row.rounded.push(layout.read(rounded, position));
            element += 1;
        });
        let greatest = rows.iter().map(|row| greatest(&row.reference)).fold(0.0, f64::max);
        let is_exact = layout.encoding().decoded().class() != Class::Float;
        Tensor { is_exact, greatest, rows }
    }

    /// What a row's differences are parts of.
    fn scale(&self, row: &Row) -> f64 {
        match self.is_exact {
            true => 1.0,
            false => greatest(&row.reference)
                .max(SMALL * self.greatest)
                .max(f64::from(f32::MIN_POSITIVE)),
        }
    }

    /// What f32 makes of it.
    fn noise(&self) -> f64 {
        if self.is_exact {
            return 0.0;
        }
        let of = |row: &Row| {
            let scale = self.scale(row);
            let pairs = row.rounded.iter().zip(&row.reference);
            let apart = pairs.map(|(a, b)| apart(*a, *b, scale));
            // Where f32 chooses otherwise than f64, that is no noise.
            apart.filter(|apart| *apart < REORDERED.sqrt()).fold(0.0, f64::max)
        };
        self.rows.iter().map(of).fold(0.0, f64::max)
    }

    /// The element that is furthest off: each row is taken beside the nearer of both references.
    fn worst(&self, limit: f64) -> Worst {
        let (position, element) = (vec![], 0);
        let mut worst =
            Worst { position, element, native: 0.0, expected: 0.0, error: 0.0, beyond: 0 };
        for row in &self.rows {
            let scale = self.scale(row);
            let errors = |beside: &[f64]| -> Vec<f64> {
                row.native.iter().zip(beside).map(|(a, b)| apart(*a, *b, scale)).collect()
            };
            let of = |errors: &[f64]| errors.iter().copied().fold(0.0, f64::max);
            let both =
                [(&row.reference, errors(&row.reference)), (&row.rounded, errors(&row.rounded))];
            let [a, b] = &both;
            let (beside, errors) = if of(&b.1) < of(&a.1) { b } else { a };
            worst.beyond += errors.iter().filter(|e| **e > limit).count() as u64;
            for (at, error) in errors.iter().enumerate() {
                if *error > worst.error {
                    worst.error = *error;
                    worst.element = row.first + at as u64;
                    worst.position.clone_from(&row.position);
                    if let Some(last) = worst.position.last_mut() {
                        *last = at as u64;
                    }
                    (worst.native, worst.expected) = (row.native[at], beside[at]);
                }
            }
        }
        worst
    }
}

/// Relative distance of neighbours in what is stored so; 0 where that is as fine as the arithmetic,
/// or whole numbers.
pub(crate) fn step(encoding: Encoding) -> f64 {
    match encoding.code {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::F8E4M3 => 2f64.powi(-4),
        DType::F4E2M1 => 2f64.powi(-2),
        DType::I8 if !encoding.is_plain() => 2f64.powi(-7),
        DType::I4 if !encoding.is_plain() => 2f64.powi(-3),
        _ => 0.0,
    }
}

/// The coarsest step of what a kernel rounds to on its way.
pub(crate) fn narrowest(body: &[Stmt], kernel: &Kernel) -> f64 {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Let { result, op: Op::Cast(_) | Op::Encode(_) } => step(kernel.ty(*result).encoding),
        Stmt::Let { .. } | Stmt::Store { .. } => 0.0,
        Stmt::For(f) => narrowest(&f.body, kernel),
        Stmt::If(i) => narrowest(&i.then.0, kernel).max(narrowest(&i.otherwise.0, kernel)),
    };
    body.iter().map(of).fold(0.0, f64::max)
}
