//! What must hold of a plan before anyone walks it.

use crate::error::ArtifactError;
use crate::plan::{Arg, Bucket, Entry, Grid, Launch, Plan, Step, Tensor, check_version};
use crate::size::SizeExpr;
use std::collections::BTreeSet;

/// Alignment of packed weights, bytes.
const WEIGHT_ALIGN: u64 = 64;

type Checked = Result<(), ArtifactError>;

fn fault(at: &str, found: impl ToString, expected: impl ToString) -> ArtifactError {
    ArtifactError::Plan { at: at.into(), found: found.to_string(), expected: expected.to_string() }
}

/// `index` is a position in a table of `len` rows.
fn in_table(at: &str, table: &str, index: u32, len: usize) -> Checked {
    match (index as usize) < len {
        true => Ok(()),
        false => Err(fault(at, format!("{table} {index}"), format!("one of {len}"))),
    }
}

fn unique<'a>(table: &str, names: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            return Err(fault(table, format!("`{name}`"), "unique names, none empty"));
        }
    }
    Ok(())
}

impl Plan {
    /// Checks that every reference in the plan resolves and every size is a whole program, given
    /// the length of the weights section.
    ///
    /// # Errors
    /// [`ArtifactError::Version`]; [`ArtifactError::Plan`] names the first row that contradicts
    /// another.
    pub fn check(&self, weights_bytes: u64) -> Checked {
        check_version(self.version)?;
        unique("symbols", self.symbols.iter().map(String::as_str))?;
        unique("places", self.places.iter().map(|place| place.name.as_str()))?;
        unique("kernels", self.kernels.iter().map(|kernel| kernel.name.as_str()))?;
        unique("entries", self.entries.iter().map(|entry| entry.name.as_str()))?;
        self.check_kernels()?;
        self.check_weights(weights_bytes)?;
        self.check_states()?;
        self.check_probes()?;
        self.entries.iter().try_for_each(|entry| self.check_entry(entry))
    }

    fn check_kernels(&self) -> Checked {
        for kernel in &self.kernels {
            let at = format!("kernel `{}`", kernel.name);
            for symbol in &kernel.symbols {
                in_table(&at, "symbol", *symbol, self.symbols.len())?;
            }
        }
        Ok(())
    }

    fn check_weights(&self, section: u64) -> Checked {
        for weight in &self.weights {
            let at = format!("weight `{}`", weight.name);
            in_table(&at, "place", weight.place, self.places.len())?;
            let end = weight.offset.checked_add(weight.bytes);
            if end.is_none_or(|end| end > section) {
                let found = format!("{} bytes at {}", weight.bytes, weight.offset);
                return Err(fault(&at, found, format!("a range within {section} bytes")));
            }
            if !weight.offset.is_multiple_of(WEIGHT_ALIGN) {
                let expected = format!("a multiple of {WEIGHT_ALIGN}");
                return Err(fault(&at, format!("offset {}", weight.offset), expected));
            }
        }
        Ok(())
    }

    fn check_states(&self) -> Checked {
        for state in &self.states {
            let at = format!("state `{}`", state.name);
            in_table(&at, "place", state.place, self.places.len())?;
            if state.layers == 0 || state.bytes_per_token == 0 || state.page_tokens == 0 {
                let found = format!(
                    "{} layers, {} bytes per token, {} tokens per page",
                    state.layers, state.bytes_per_token, state.page_tokens
                );
                return Err(fault(&at, found, "all greater than 0"));
            }
        }
        Ok(())
    }

    fn check_probes(&self) -> Checked {
        for probe in &self.probes {
            let at = format!("probe `{}`", probe.name);
            in_table(&at, "kernel", probe.kernel, self.kernels.len())?;
            let kernel = &self.kernels[probe.kernel as usize];
            if kernel.params != 2 || !kernel.symbols.is_empty() {
                let found =
                    format!("{} parameters, {} symbols", kernel.params, kernel.symbols.len());
                return Err(fault(&at, found, "2 parameters, no symbols"));
            }
            if probe.bytes == 0 || probe.instances == 0 {
                let found = format!("{} bytes, {} instances", probe.bytes, probe.instances);
                return Err(fault(&at, found, "both greater than 0"));
            }
        }
        Ok(())
    }

    fn check_entry(&self, entry: &Entry) -> Checked {
        let at = format!("entry `{}`", entry.name);
        unique(&format!("{at}, inputs"), entry.inputs.iter().map(|t| t.name.as_str()))?;
        unique(&format!("{at}, outputs"), entry.outputs.iter().map(|t| t.name.as_str()))?;
        for Tensor { name, dims, bytes, .. } in entry.inputs.iter().chain(&entry.outputs) {
            let at = format!("{at}, tensor `{name}`");
            dims.iter().chain([bytes]).try_for_each(|expr| self.check_size(&at, expr))?;
        }
        for bucket in &entry.buckets {
            self.check_bucket(&at, entry, bucket)?;
        }
        Ok(())
    }

    fn check_bucket(&self, at: &str, entry: &Entry, bucket: &Bucket) -> Checked {
        let at = format!("{at}, bucket `{}`", bucket.name);
        if bucket.arenas.len() != self.places.len() {
            let found = format!("{} arenas", bucket.arenas.len());
            return Err(fault(&at, found, format!("one for each of {}", self.places.len())));
        }
        let conditions = bucket.when.iter().flatten().map(|condition| &condition.expr);
        conditions.chain(&bucket.arenas).try_for_each(|expr| self.check_size(&at, expr))?;
        unique(&format!("{at}, forms"), bucket.forms.iter().map(|form| form.block.as_str()))?;
        for buffer in &bucket.buffers {
            let at = format!("{at}, buffer `{}`", buffer.name);
            in_table(&at, "place", buffer.place, self.places.len())?;
            self.check_size(&at, &buffer.offset)?;
            self.check_size(&at, &buffer.bytes)?;
        }
        for (i, step) in bucket.steps.iter().enumerate() {
            let at = format!("{at}, step {i}");
            match step {
                Step::Launch(launch) => self.check_launch(&at, entry, bucket, launch)?,
                Step::Copy { from, to, bytes } => {
                    self.check_memory(&at, entry, bucket, *from)?;
                    self.check_memory(&at, entry, bucket, *to)?;
                    self.check_size(&at, bytes)?;
                }
                Step::Barrier => {}
            }
        }
        Ok(())
    }

    fn check_launch(&self, at: &str, entry: &Entry, bucket: &Bucket, launch: &Launch) -> Checked {
        in_table(at, "kernel", launch.kernel, self.kernels.len())?;
        in_table(at, "place", launch.place, self.places.len())?;
        let kernel = &self.kernels[launch.kernel as usize];
        if launch.args.len() != kernel.params as usize {
            let found = format!("{} arguments of `{}`", launch.args.len(), kernel.name);
            return Err(fault(at, found, kernel.params));
        }
        launch.args.iter().try_for_each(|arg| self.check_arg(at, entry, bucket, *arg))?;
        self.check_size(at, &launch.work.bytes)?;
        self.check_size(at, &launch.work.flops)?;
        match &launch.grid {
            Grid::Dense(count) => self.check_size(at, count),
            Grid::List { list, each } => {
                self.check_memory(at, entry, bucket, *list)?;
                self.check_size(at, each)
            }
        }
    }

    fn check_memory(&self, at: &str, entry: &Entry, bucket: &Bucket, arg: Arg) -> Checked {
        match arg {
            Arg::Null => Err(fault(at, "no memory", "memory to read or write")),
            arg => self.check_arg(at, entry, bucket, arg),
        }
    }

    fn check_arg(&self, at: &str, entry: &Entry, bucket: &Bucket, arg: Arg) -> Checked {
        match arg {
            Arg::Buffer(i) => in_table(at, "buffer", i, bucket.buffers.len()),
            Arg::Weight(i) => in_table(at, "weight", i, self.weights.len()),
            Arg::Input(i) => in_table(at, "input", i, entry.inputs.len()),
            Arg::Output(i) => in_table(at, "output", i, entry.outputs.len()),
            Arg::State { state, layer } => {
                in_table(at, "state", state, self.states.len())?;
                let layers = self.states[state as usize].layers;
                in_table(at, "layer", layer, layers as usize)
            }
            Arg::Null => Ok(()),
        }
    }

    fn check_size(&self, at: &str, expr: &SizeExpr) -> Checked {
        match expr.is_well_formed(self.symbols.len()) {
            true => Ok(()),
            false => {
                Err(fault(at, format!("size {:?}", expr.0), "a whole program over the symbols"))
            }
        }
    }
}
