//! One pass over a context, or over a part of it: scores, their exponentials over the running
//! maximum, and sums, page by page.

use crate::lower::attention::{
    Attention, Axis, Division, Extent, Heads, Key, Place, Rows, columns,
};
use crate::lower::attention::{join, lists::StepList};
use crate::lower::code::StepInput;
use crate::lower::states::cached;
use ir::dim::Dim;
use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::{Bound, Fold, LoopHints, ParamId, Role, TileType, ValueId};

/// Parameters in order: a query for each key, each memory, pages, pos, the list; then outputs.
struct Params {
    queries: Vec<ParamId>,
    memories: Vec<ParamId>,
    pages: ParamId,
    pos: ParamId,
    list: ParamId,
}

/// What an instance works on.
struct Instance<'a> {
    a: &'a Attention,
    params: Params,
    heads: Heads<'a>,
    seq: ValueId,
    /// One past the last position.
    to: ValueId,
    /// Left operands, one for each key.
    queries: Vec<ValueId>,
    /// Position of each row of the tile.
    at: ValueId,
}

/// A tile of a row of memory for each position of a page.
struct Loaded {
    memory: usize,
    coords: Vec<At>,
    tile: ValueId,
}

/// The list that the kernel works through.
pub fn list(a: &Attention) -> StepList {
    match a.division {
        Division::Instances(parts) => StepList::Parts(parts),
        Division::Whole | Division::Turns(_) => StepList::Rows(a.rows),
    }
}

/// The kernel. Parameters: a query for each key, each memory, pages, pos, [`list`]; then the
/// outputs of each value, or, where the context is divided, what [`join::kernel`] reads.
pub fn kernel(a: &Attention) -> KernelBuilder {
    let mut b = KernelBuilder::new("attention", "attention");
    let n = a.symbols(&mut b);
    let params = params(&mut b, a, &n);
    let outs = match a.division {
        Division::Instances(parts) => join::partials(&mut b, a, parts, Role::Out),
        Division::Whole | Division::Turns(_) => join::results(&mut b, a, &n),
    };
    let heads = Heads { heads: &a.heads, begin: a.grid(&mut b) };
    let fields = b.grid_list(params.list);
    let (seq, row, end) = (fields[0], fields[1], fields[2]);
    let (from, to, part) = match fields[3..] {
        [_, from, to, part] => (Some(from), to, Some(part)),
        _ => (None, fields[3], None),
    };
    let block = At::tile(row, a.rows).bound(end);
    let at = b.load(params.pos, std::slice::from_ref(&block));
    let at = if a.tile_heads() == 1 && a.heads.iter().all(|h| h.tile.is_none()) {
        at
    } else {
        let at = b.broadcast(at, 1, a.tile_heads());
        b.merge(at, 0, 2)
    };
    let mut instance = Instance { a, params, heads, seq, to, queries: vec![], at };
    for (i, key) in a.keys.iter().enumerate() {
        let query = instance.query(&mut b, i, key, &block);
        instance.queries.push(query);
    }
    let ends = instance.ends(&mut b, from);
    let heads = &instance.heads;
    match part {
        None => {
            for (value, (sum, outs)) in a.values.iter().zip(ends[2..].iter().zip(&outs)) {
                let mean = b.map("a / b", &[("a", *sum), ("b", ends[1])]);
                let to = join::ResultAt { value, heads, block: &block };
                to.store(&mut b, a, mean, outs);
            }
        }
        Some(part) => join::store_partials(&mut b, heads, &outs, [&block, &At::one(part)], &ends),
    }
    b
}

fn params(b: &mut KernelBuilder, a: &Attention, n: &Dim) -> Params {
    let mut queries = vec![];
    for (i, key) in a.keys.iter().enumerate() {
        let row = key.query.iter().map(|e| Dim::constant(e.stored));
        let dims: Vec<Dim> = [n.clone()].into_iter().chain(row).collect();
        queries.push(b.param(&format!("q{i}"), Role::In, tensor(key.q, &dims)));
    }
    let mut memories = vec![];
    for (i, memory) in a.memories.iter().enumerate() {
        let page = Dim::constant(i64::from(a.page));
        let mut dims = match memory.place {
            Place::Pages => vec![Dim::symbol("pg"), page],
            Place::Positions => vec![Dim::symbol("b"), Dim::symbol("mp").times(&page)],
        };
        dims.extend(memory.row.iter().map(|e| Dim::constant(*e)));
        memories.push(b.param(&format!("c{i}"), Role::In, cached(memory.encoding, &dims)));
    }
    let pages = b.param("pages", Role::In, tensor(DType::I32, &StepInput::Pages.dims()));
    let pos = b.param("pos", Role::In, tensor(DType::I32, &StepInput::Pos.dims()));
    let list = b.param("blocks", Role::In, list(a).param());
    Params { queries, memories, pages, pos, list }
}

/// A tile of rows by those of `axes` that an instance has a tile of, as a matrix: rows and tile
/// heads by columns. Heads that it lacks share it.
fn matrix(b: &mut KernelBuilder, a: &Attention, tile: ValueId, axes: &[Extent]) -> ValueId {
    let tiled: Vec<usize> = (0..a.heads.len()).filter(|i| a.heads[*i].tile.is_some()).collect();
    let is_kept = |axis: &Axis| !matches!(axis, Axis::Head(i) if a.heads[*i].tile.is_none());
    let mut kept: Vec<Axis> = axes.iter().map(|e| e.axis).filter(is_kept).collect();
    let mut tile = tile;
    for i in &tiled {
        if !kept.contains(&Axis::Head(*i)) {
            let heads = a.heads[*i].tile.unwrap_or(1);
            kept.push(Axis::Head(*i));
            let last = b.ty(tile).shape.len() as u32;
            tile = b.broadcast(tile, last, heads);
        }
    }
    ordered(b, tile, &kept, tiled.len())
}

/// Brings the axes of a tile behind the first in order, `heads` heads and then columns, and makes
/// the first and the heads one, and the columns one.
fn ordered(b: &mut KernelBuilder, tile: ValueId, kept: &[Axis], heads: usize) -> ValueId {
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by_key(|i| match kept[*i] {
        Axis::Head(h) => (0, h),
        Axis::Column(c) => (1, c),
    });
    let mut tile = tile;
    if !order.is_sorted() {
        let order = [0].into_iter().chain(order.iter().map(|i| 1 + *i as u32));
        tile = b.transpose(tile, &order.collect::<Vec<u32>>());
    }
    if heads > 0 {
        tile = b.merge(tile, 0, 1 + heads as u32);
    }
    match b.ty(tile).shape.len() {
        1 => b.broadcast(tile, 1, 1),
        2 => tile,
        rank => b.merge(tile, 1, rank as u32 - 1),
    }
}

impl Instance<'_> {
    /// A left operand: rows and their tile heads by columns.
    fn query(&self, b: &mut KernelBuilder, i: usize, key: &Key, block: &At) -> ValueId {
        let mut coords = vec![block.clone()];
        for extent in &key.query {
            let at = self.heads.at(b, extent);
            coords.push(at);
        }
        let q = b.load(self.params.queries[i], &coords);
        let q = matrix(b, self.a, q, &key.query);
        // The first key's scale is all scores'.
        let ratio = key.scale / self.a.keys[0].scale;
        let q = if ratio == 1.0 {
            q
        } else {
            let ratio = b.splat(ratio, TileType::scalar(DType::F32));
            b.map("q * r", &[("q", q), ("r", ratio)])
        };
        self.a.left.enter(b, q)
    }

    /// The maximum, the sum of exponentials and the sums of each value, over all positions of the
    /// instance.
    fn ends(&self, b: &mut KernelBuilder, from: Option<ValueId>) -> Vec<ValueId> {
        let Division::Turns(positions) = self.a.division else {
            let from = from.map_or(Bound::Dim(0.into()), Bound::Value);
            return self.pass(b, from, self.to);
        };
        let carry = join::nothing(b, self.a, self.a.tile_rows());
        let hints = LoopHints::default();
        b.for_loop(0, self.to, positions, &carry, hints, |b, from, before| {
            let text = format!("min(a + {positions}, b)");
            let to = b.map(&text, &[("a", from), ("b", self.to)]);
            let here = self.pass(b, Bound::Value(from), to);
            join::joined_to(b, before, &here)
        })
    }

    /// One pass over the positions between two.
    fn pass(&self, b: &mut KernelBuilder, from: Bound, to: ValueId) -> Vec<ValueId> {
        let carry = join::nothing(b, self.a, self.a.tile_rows());
        let hints = LoopHints { stages: 2, ..LoopHints::default() };
        b.for_loop(from, to, self.a.page, &carry, hints, |b, t, carried| {
            self.page(b, [t, to], carried)
        })
    }

    /// One page's part, of the positions from `t` on that are below `to`: scores, new maximum,
    /// rescaled sums.
    fn page(
        &self,
        b: &mut KernelBuilder,
        [t, to]: [ValueId; 2],
        carried: &[ValueId],
    ) -> Vec<ValueId> {
        let a = self.a;
        let mut loaded: Vec<Loaded> = vec![];
        let number = b.map(&format!("t / {}", a.page), &[("t", t)]);
        let page = b.load(self.params.pages, &[At::one(self.seq), At::one(number)]);
        let left = b.map("a - b", &[("a", to), ("b", t)]);
        let place = [page, t, to, left];
        let mut scores = self.none(b, a.page);
        let mut tiles = vec![];
        for rows in a.keys.iter().map(|k| &k.rows).chain(a.values.iter().map(|v| &v.rows)) {
            tiles.push(self.rows(b, rows, place, &mut loaded));
        }
        for (query, tile) in self.queries.iter().zip(&tiles) {
            scores = b.mma(scores, *query, *tile);
        }
        let scores = a.left.leave(b, scores);
        // exp(x) = exp2(x * log2(e)), folded into the scale.
        let scale = a.keys[0].scale * std::f64::consts::LOG2_E;
        let scale = b.splat(scale, TileType::scalar(DType::F32));
        let column = b.iota(1, &[a.tile_rows(), a.page]);
        let seen = "select(j + t <= at, s * scale, lowest)";
        let operands = [("j", column), ("t", t), ("at", self.at), ("s", scores), ("scale", scale)];
        let scores = b.map(seen, &operands);
        let here = b.reduce(Fold::Max, 1, scores);
        let most = b.map("max(a, b)", &[("a", carried[0]), ("b", here)]);
        let weights = b.map("exp2(s - m)", &[("s", scores), ("m", most)]);
        let fade = b.map("exp2(a - b)", &[("a", carried[0]), ("b", most)]);
        let here = b.reduce(Fold::Add, 1, weights);
        let total = b.map("l * f + x", &[("l", carried[1]), ("f", fade), ("x", here)]);
        let weights = a.left.enter(b, weights);
        let mut next = vec![most, total];
        for ((value, sum), tile) in a.values.iter().zip(&carried[2..]).zip(&tiles[a.keys.len()..]) {
            let faded = b.map("a * f", &[("a", *sum), ("f", fade)]);
            let columns = b.transpose(*tile, &[1, 0]);
            next.push(if a.left.terms() == 1 {
                b.mma(faded, weights, columns)
            } else {
                let zero = self.none(b, a.width(value));
                let here = b.mma(zero, weights, columns);
                let here = a.left.leave(b, here);
                b.map("a + b", &[("a", faded), ("b", here)])
            });
        }
        next
    }

    /// The beginning of a sum of products with left operands.
    fn none(&self, b: &mut KernelBuilder, width: u32) -> ValueId {
        let rows = self.a.tile_rows() * self.a.left.terms();
        b.splat(0.0, TileType::new(DType::F32, &[rows, width]))
    }

    /// A page's rows as a right operand, positions by columns. What is loaded already is not
    /// loaded again, nor a part of it.
    fn rows(
        &self,
        b: &mut KernelBuilder,
        rows: &Rows,
        [page, t, to, left]: [ValueId; 4],
        loaded: &mut Vec<Loaded>,
    ) -> ValueId {
        let a = self.a;
        let positions = |start: At| start.bound(left);
        let mut coords = match a.memories[rows.memory].place {
            Place::Pages => vec![At::one(page), positions(At::tile(0, a.page))],
            Place::Positions => {
                vec![At::one(self.seq), At::tile(t, a.page).bound(to)]
            }
        };
        for extent in &rows.axes {
            let at = self.heads.at(b, extent);
            coords.push(at);
        }
        let within = loaded.iter().find_map(|l| part_of(l, rows.memory, &coords));
        let tile = match within {
            Some((tile, starts)) => {
                let extents: Vec<u32> = coords.iter().filter_map(|c| c.extent).collect();
                if b.ty(tile).shape == extents { tile } else { b.slice(tile, &starts, &extents) }
            }
            None => {
                let tile =
                    a.memories[rows.memory].load(b, self.params.memories[rows.memory], &coords);
                loaded.push(Loaded { memory: rows.memory, coords, tile });
                tile
            }
        };
        let is_column = |e: &&Extent| matches!(e.axis, Axis::Column(_));
        let kept: Vec<Axis> = rows.axes.iter().filter(is_column).map(|e| e.axis).collect();
        debug_assert_eq!(kept.len(), columns(&rows.axes).len());
        ordered(b, tile, &kept, 0)
    }
}

/// Where in a loaded tile an access lies, if it does.
fn part_of(l: &Loaded, memory: usize, coords: &[At]) -> Option<(ValueId, Vec<u32>)> {
    use ir::kernel::Start::Const;
    if l.memory != memory {
        return None;
    }
    let mut starts = vec![];
    for (all, part) in l.coords.iter().zip(coords) {
        match (&all.start, &part.start, all.extent, part.extent) {
            _ if all == part => starts.extend(all.extent.map(|_| 0)),
            (Const(first), Const(start), Some(many), Some(few))
                if all.bound.is_none()
                    && part.bound.is_none()
                    && first <= start
                    && start + i64::from(few) <= first + i64::from(many) =>
            {
                starts.push((start - first) as u32);
            }
            _ => return None,
        }
    }
    Some((l.tile, starts))
}
