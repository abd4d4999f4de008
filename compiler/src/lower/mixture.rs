//! Lowering groups of experts: what is claimed to launches and the memory between them.

use crate::lower::block::Block;
use crate::lower::claims::Form as ClaimForm;
use crate::lower::claims::experts::{Combine, Form, Leaf, Table};
use crate::lower::code::{BlockArg, BlockGrid, WeightUse};
use crate::lower::error::LowerError;
use crate::lower::experts::{self, Along, Experts};
use crate::lower::partition::{Group, GroupKind, op_name};
use crate::lower::precision::Operand;
use crate::lower::row;
use crate::lower::schedule;
use crate::lower::size::bytes_of;
use crate::lower::work;
use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::graph::{NodeId, ValueId};

/// Memory through which results of choices become a value of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Combined {
    /// `[n, k]`: where the result of each choice lies.
    pub slot_of: usize,
    /// `[slots, width]` in f32.
    pub results: usize,
    /// Choices of a row.
    pub chosen: i64,
    /// Width of a result.
    pub width: i64,
    /// Indices of the choices.
    pub choices: Vec<Name>,
    /// Indices of a result.
    pub out: Vec<Name>,
    /// How.
    pub combine: Combine,
    /// Whether the value is in memory too.
    pub stored: bool,
}

/// Where a group's kernels leave what the next ones read.
struct Temps {
    row_of: usize,
    slot_of: usize,
    work: usize,
}

impl Block<'_> {
    /// Lowers a group of experts.
    ///
    /// Errors: E0261, E0262, E0284.
    pub fn experts(&mut self, group: &Group) -> Result<(), LowerError> {
        let claims = &self.partition.claims;
        let claim = &claims.all()[group.claim.expect("experts are a claim")];
        let ClaimForm::Experts(form) = &claim.form else {
            let node = self.graph.node(claim.root);
            return Err(self.form(node, "another group", "experts"));
        };
        let (e, first, down) = self.experts_shape(claim.root, form)?;
        let int = |d: Dim| d.times(&4.into());
        let t = Temps {
            row_of: self.temp("row_of", int(e.slots())),
            slot_of: self.temp("slot_of", int(e.slots())),
            work: self.temp("work", e.work_bytes()),
        };
        let hidden = bytes_of(&[e.slots(), e.widths.1.into()], e.hidden());
        let hidden = self.temp(if down.is_some() { "hidden" } else { "results" }, hidden);
        self.dispatch(group, form, &e, &t)?;
        self.first_products(group, form, (&e, first), (&t, hidden))?;
        let results = match down {
            None => hidden,
            Some(down) => {
                let results = self.temp("results", int(e.slots().times(&e.width_out().into())));
                let args = vec![
                    BlockArg::Temp(hidden),
                    BlockArg::Weight(Box::new(down)),
                    BlockArg::Temp(t.work),
                    BlockArg::Temp(results),
                ];
                let kernel = self.kernels.intern(experts::down(&e))?;
                let grid = listed(&t, e.width_out(), e.down_columns());
                self.launch(group, 2, kernel, args, grid, work::experts_down(&e));
                results
            }
        };
        let combined = Combined {
            slot_of: t.slot_of,
            results,
            chosen: e.experts.1,
            width: e.width_out(),
            choices: form.chosen.clone(),
            out: form.out().to_vec(),
            combine: form.combine,
            stored: self.is_read_whole(form.result),
        };
        let stored = combined.stored;
        self.combined.insert(form.result, combined);
        if stored {
            let rows = group.rows.clone();
            let phase = group.phase + 3;
            let alone = Group { kind: GroupKind::Row, phase, rows, nodes: vec![], claim: None };
            row::lower_to(self, &alone, vec![form.result])?;
        }
        Ok(())
    }

    /// Sorts slots by expert.
    fn dispatch(
        &mut self,
        group: &Group,
        form: &Form,
        e: &Experts,
        t: &Temps,
    ) -> Result<(), LowerError> {
        let args = vec![
            BlockArg::Value(form.index, DType::I32.into()),
            BlockArg::Temp(t.row_of),
            BlockArg::Temp(t.slot_of),
            BlockArg::Temp(t.work),
        ];
        let kernel = self.kernels.intern(experts::dispatch(e))?;
        let work = work::experts_dispatch(e);
        self.launch(group, 0, kernel, args, BlockGrid::Dense(1.into()), work);
        Ok(())
    }

    /// The products that rows enter, and what is computed of them.
    fn first_products(
        &mut self,
        group: &Group,
        form: &Form,
        (e, weights): (&Experts, Vec<WeightUse>),
        (t, hidden): (&Temps, usize),
    ) -> Result<(), LowerError> {
        let mut args = vec![BlockArg::Value(form.x, e.x), BlockArg::Temp(t.row_of)];
        args.extend(weights.into_iter().map(|w| BlockArg::Weight(Box::new(w))));
        let values = form.leaves.iter().filter_map(|leaf| match leaf {
            Leaf::Branch(_) => None,
            Leaf::Choice(value) | Leaf::Row(value) => Some(*value),
        });
        args.extend(values.map(|v| BlockArg::Value(v, self.stored_encoding(v))));
        args.extend([BlockArg::Temp(t.work), BlockArg::Temp(hidden)]);
        let kernel = self.kernels.intern(experts::up(e))?;
        let grid = listed(t, e.widths.1, e.up_columns());
        self.launch(group, 1, kernel, args, grid, work::experts_up(e));
        Ok(())
    }

    /// Whether something reads a value that does not combine it for itself.
    fn is_read_whole(&self, value: ValueId) -> bool {
        let rows =
            self.partition.claims.making(value).map(|c| &self.partition.claims.all()[c].rows);
        let reads = |id: &NodeId| {
            let node = self.graph.node(*id);
            let picks = op_name(node) == "gather" && node.operands[0] == value;
            (node.operands.contains(&value), picks)
        };
        self.graph.outputs.contains(&value)
            || self.partition.groups.iter().any(|g| match g.claim {
                Some(at) => self.partition.claims.all()[at].reads.contains(&value),
                None => {
                    let alike = g.kind == GroupKind::Row && Some(&g.rows) == rows;
                    let found: Vec<(bool, bool)> = g.nodes.iter().map(reads).collect();
                    found.iter().any(|(read, picks)| (*read && !alike) || *picks)
                }
            })
    }

    fn experts_shape(
        &self,
        root: NodeId,
        form: &Form,
    ) -> Result<(Experts, Vec<WeightUse>, Option<WeightUse>), LowerError> {
        let (node, left) = (self.graph.node(root), self.operand(root));
        let weight = |table: &Table, rows: &[Name], cols: &[Name]| {
            let of = std::slice::from_ref(&table.experts);
            self.weight_use(table.of.clone(), [of, rows, cols], left)
        };
        let first: Vec<WeightUse> = form
            .branches()
            .map(|t| weight(t, &form.hidden, &form.width))
            .collect::<Result<_, _>>()?;
        let down = form.down.as_ref().map(|(t, out)| weight(t, out, &form.hidden)).transpose()?;
        if first.iter().chain(&down).any(|w| left == Operand::I8 && left.beside(w.encoding) != left)
        {
            let found = "weights that are not all rounded to integers";
            return Err(self.form(node, found, "only such beside activations as int8"));
        }
        let counts: Vec<i64> = first.iter().chain(&down).map(|w| w.dims[0]).collect();
        let all = *counts.first().ok_or_else(|| self.form(node, "no weights", "some"))?;
        if counts.iter().any(|c| *c != all) {
            let found = format!("weights of {counts:?} experts");
            return Err(self.form(node, found, "weights of as many experts each"));
        }
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Branch(_) => None,
            Leaf::Choice(value) => Some((Along::Choices, self.stored_encoding(*value))),
            Leaf::Row(value) => Some((Along::Rows, self.stored_encoding(*value))),
        };
        let shape = Experts {
            rows_max: self.rows_max(),
            experts: (all, self.product(&form.chosen)?),
            widths: (self.product(&form.width)?, self.product(&form.hidden)?),
            x: self.stored_as(form.x, left.stored()),
            left,
            by_choice: form.by_choice,
            branches: first.iter().map(|w| w.encoding).collect(),
            leaves: form.leaves.iter().filter_map(leaf).collect(),
            expr: form.expr.clone(),
            down: down.as_ref().map(|w| (w.encoding, w.dims[1])),
            rows: schedule::expert_rows(self.bucket),
            in_order: self.bucket.is_narrow(),
        };
        Ok((shape, first, down))
    }
}

/// A launch over the work list and tiles of columns.
fn listed(t: &Temps, columns: i64, tile: u32) -> BlockGrid {
    let each = Dim::constant(columns).ceil_div(tile.into());
    BlockGrid::List { list: BlockArg::Temp(t.work), each }
}
