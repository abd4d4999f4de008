//! Operations on whole tiles.

use super::error::InterpError;
use super::real::Real;
use super::tile::{Coded, Tile};
use crate::kernel::Fold;

fn extent(shape: &[u32]) -> usize {
    shape.iter().map(|e| *e as usize).product()
}

/// Elements before, along and after an axis.
fn around(shape: &[u32], axis: usize) -> (usize, usize, usize) {
    (extent(&shape[..axis]), shape[axis] as usize, extent(&shape[axis + 1..]))
}

fn fold_all<E: Copy>(v: &[E], shape: &[u32], axis: usize, f: impl Fn(E, E) -> E) -> Vec<E> {
    let (outer, along, inner) = around(shape, axis);
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let elements = (0..along).map(|a| v[(o * along + a) * inner + i]);
            out.extend(elements.reduce(&f));
        }
    }
    out
}

fn scan_all<E: Copy>(v: &[E], shape: &[u32], axis: usize, f: impl Fn(E, E) -> E) -> Vec<E> {
    let (outer, along, inner) = around(shape, axis);
    let mut out = v.to_vec();
    for o in 0..outer {
        for a in 1..along {
            for i in 0..inner {
                let at = (o * along + a) * inner + i;
                out[at] = f(out[at - inner], out[at]);
            }
        }
    }
    out
}

/// Combined along an axis; `running` keeps every partial result.
pub fn fold<T: Real>(
    fold: Fold,
    tile: &Tile<T>,
    shape: &[u32],
    axis: usize,
    running: bool,
) -> Tile<T> {
    fn both<E: Copy>(
        v: &[E],
        shape: &[u32],
        axis: usize,
        running: bool,
        f: impl Fn(E, E) -> E,
    ) -> Vec<E> {
        if running { scan_all(v, shape, axis, f) } else { fold_all(v, shape, axis, f) }
    }
    match tile {
        Tile::Float(v) => Tile::Float(match fold {
            Fold::Add => both(v, shape, axis, running, |a, b| a + b),
            Fold::Max => both(v, shape, axis, running, T::max),
            Fold::Min => both(v, shape, axis, running, T::min),
        }),
        Tile::Int(v) => Tile::Int(match fold {
            Fold::Add => both(v, shape, axis, running, i32::wrapping_add),
            Fold::Max => both(v, shape, axis, running, Ord::max),
            Fold::Min => both(v, shape, axis, running, Ord::min),
        }),
        _ => unreachable!("a verified fold is of numbers"),
    }
}

/// `acc[i, j] + Σ_k a[i, k]·b[j, k]` with k of extent `depth`.
pub fn mma<T: Real>(acc: &Tile<T>, a: &Tile<T>, b: &Tile<T>, depth: usize) -> Tile<T> {
    match (acc, a, b) {
        (Tile::Int(acc), Tile::Int(a), Tile::Int(b)) => {
            Tile::Int(products(acc, a, b, depth, |sum, x, y| {
                let dot =
                    x.iter().zip(y).fold(0i32, |s, (x, y)| s.wrapping_add(x.wrapping_mul(*y)));
                sum.wrapping_add(dot)
            }))
        }
        (Tile::Float(acc), Tile::Float(a), Tile::Float(b)) => {
            Tile::Float(products(acc, a, b, depth, |sum, x, y| sum + dot(x, y)))
        }
        (Tile::Float(acc), a, b) => {
            Tile::Float(coded_mma(acc, &as_coded(a, depth), &as_coded(b, depth)))
        }
        _ => unreachable!("a verified product sums reals or integers"),
    }
}

fn products<E: Copy>(
    acc: &[E],
    a: &[E],
    b: &[E],
    depth: usize,
    f: impl Fn(E, &[E], &[E]) -> E,
) -> Vec<E> {
    let columns = b.len() / depth;
    (acc.iter().enumerate())
        .map(|(at, sum)| {
            let (i, j) = (at / columns, at % columns);
            f(*sum, &a[i * depth..][..depth], &b[j * depth..][..depth])
        })
        .collect()
}

/// Sum of products, in as many partial sums as a vector has lanes.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 16;
    let mut sums = [T::default(); LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] = sums[l] + x[l] * y[l];
        }
    }
    let rest = rest_a.iter().zip(rest_b).fold(T::default(), |s, (x, y)| s + *x * *y);
    sums.iter().fold(rest, |s, x| s + *x)
}

/// An operand as codes; of a plain one each row is one block of scale 1.
fn as_coded<T: Real>(tile: &Tile<T>, row: usize) -> Coded {
    if let Tile::Coded(coded) = tile {
        return coded.clone();
    }
    let codes: Vec<f64> = (0..tile.len()).map(|i| tile.get(i)).collect();
    let scales = vec![1.0; codes.len() / row];
    Coded { codes, scales, row, block: row, phase: 0 }
}

/// Sum over blocks of the product of scales times the product of codes, which is exact.
fn coded_mma<T: Real>(acc: &[T], a: &Coded, b: &Coded) -> Vec<T> {
    let starts = |c: &Coded| (1..c.blocks()).map(|n| n * c.block - c.phase).collect::<Vec<_>>();
    let mut cuts = [vec![0, a.row], starts(a), starts(b)].concat();
    cuts.sort_unstable();
    cuts.dedup();
    let columns = b.codes.len() / b.row;
    let scale =
        |c: &Coded, row: usize, k: usize| c.scales[row * c.blocks() + (c.phase + k) / c.block];
    (acc.iter().enumerate())
        .map(|(at, sum)| {
            let (i, j) = (at / columns, at % columns);
            cuts.windows(2).fold(*sum, |sum, cut| {
                let range = cut[0]..cut[1];
                let codes = dot(&a.codes[i * a.row..][range.clone()], &b.codes[j * b.row..][range]);
                sum + T::from_f64(scale(a, i, cut[0]) * scale(b, j, cut[0]) * codes)
            })
        })
        .collect()
}

/// Axes permuted.
pub fn transpose<T: Real>(tile: &Tile<T>, shape: &[u32], order: &[u32]) -> Tile<T> {
    let strides: Vec<usize> = (0..shape.len()).map(|a| extent(&shape[a + 1..])).collect();
    let axes = order.iter().map(|a| (strides[*a as usize], shape[*a as usize] as usize));
    tile.take(offsets(axes.collect(), 0).into_iter().map(Some))
}

/// The part from `starts` with these extents.
pub fn slice<T: Real>(tile: &Tile<T>, shape: &[u32], starts: &[u32], extents: &[u32]) -> Tile<T> {
    let strides: Vec<usize> = (0..shape.len()).map(|a| extent(&shape[a + 1..])).collect();
    let first = starts.iter().zip(&strides).map(|(s, stride)| *s as usize * stride).sum();
    let axes = strides.iter().zip(extents).map(|(stride, e)| (*stride, *e as usize)).collect();
    tile.take(offsets(axes, first).into_iter().map(Some))
}

/// A new axis along which the tile is repeated.
pub fn broadcast<T: Real>(tile: &Tile<T>, result: &[u32], axis: usize) -> Tile<T> {
    let (outer, times, inner) = around(result, axis);
    let axes = vec![(inner, outer), (0, times), (1, inner)];
    tile.take(offsets(axes, 0).into_iter().map(Some))
}

/// Offsets of a nest of axes, each with its stride and extent.
fn offsets(axes: Vec<(usize, usize)>, first: usize) -> Vec<usize> {
    axes.into_iter().fold(vec![first], |offsets, (stride, extent)| {
        offsets.iter().flat_map(|o| (0..extent).map(move |i| o + i * stride)).collect()
    })
}

/// Tiles one after another along an axis.
pub fn concat<T: Real>(tiles: &[&Tile<T>], shapes: &[&[u32]], axis: usize) -> Tile<T> {
    fn join<E: Copy>(parts: &[&[E]], widths: &[usize], outer: usize) -> Vec<E> {
        let rows = (0..outer)
            .flat_map(|o| parts.iter().zip(widths).map(move |(p, w)| &p[o * w..(o + 1) * w]));
        rows.flatten().copied().collect()
    }
    let outer = extent(&shapes[0][..axis]);
    let widths: Vec<usize> = shapes.iter().map(|s| extent(&s[axis..])).collect();
    macro_rules! joined {
        ($kind:ident) => {{
            let parts = tiles.iter().filter_map(|t| match t {
                Tile::$kind(v) => Some(v.as_slice()),
                _ => None,
            });
            Tile::$kind(join(&parts.collect::<Vec<_>>(), &widths, outer))
        }};
    }
    match tiles[0] {
        Tile::Int(_) => joined!(Int),
        Tile::Bool(_) => joined!(Bool),
        _ => joined!(Float),
    }
}

/// Positions of the `k` greatest of each row; the lower position wins a tie, masked ones are last.
pub fn topk<T: Real>(tile: &Tile<T>, mask: Option<&Tile<T>>, row: usize, k: usize) -> Tile<T> {
    let mut out = Vec::with_capacity(tile.len() / row * k);
    for first in (0..tile.len()).step_by(row) {
        let takes_part = |i: &usize| mask.is_none_or(|m| m.get(first + i) != 0.0);
        let mut order: Vec<usize> = (0..row).collect();
        order.sort_by(|a, b| {
            let (pa, pb) = (takes_part(a), takes_part(b));
            let by_value = || tile.get(first + b).total_cmp(&tile.get(first + a));
            let equal = tile.get(first + a) == tile.get(first + b);
            match (pa, pb) {
                (true, true) if !equal => by_value(),
                (true, true) | (false, false) => a.cmp(b),
                _ => pb.cmp(&pa),
            }
        });
        out.extend(order[..k].iter().map(|i| *i as i32));
    }
    Tile::Int(out)
}

fn positions<T: Real>(
    op: &'static str,
    index: &Tile<T>,
    row: usize,
    extent: usize,
) -> Result<Vec<usize>, InterpError> {
    let Tile::Int(index) = index else { unreachable!("verified positions are i32") };
    (index.iter().enumerate())
        .map(|(at, p)| match usize::try_from(*p) {
            Ok(p) if p < extent => Ok(at / row * extent + p),
            _ => Err(InterpError::Position { op, position: *p, extent }),
        })
        .collect()
}

/// `out[.., i] = tile[.., index[.., i]]`
pub fn pick<T: Real>(
    tile: &Tile<T>,
    index: &Tile<T>,
    from: usize,
    to: usize,
) -> Result<Tile<T>, InterpError> {
    Ok(tile.take(positions("pick", index, to, from)?.into_iter().map(Some)))
}

/// `out[.., index[.., i]] += tile[.., i]`
pub fn place<T: Real>(
    tile: &Tile<T>,
    index: &Tile<T>,
    from: usize,
    to: usize,
) -> Result<Tile<T>, InterpError> {
    let at = positions("place", index, from, to)?;
    let n = tile.len() / from * to;
    Ok(match tile {
        Tile::Int(v) => {
            let mut out = vec![0i32; n];
            at.iter().zip(v).for_each(|(at, v)| out[*at] = out[*at].wrapping_add(*v));
            Tile::Int(out)
        }
        Tile::Float(v) => {
            let mut out = vec![T::default(); n];
            at.iter().zip(v).for_each(|(at, v)| out[*at] = out[*at] + *v);
            Tile::Float(out)
        }
        _ => unreachable!("verified values are numbers"),
    })
}

/// `table[tile]`, codes counted from 0 in two's complement.
pub fn lookup<T: Real>(tile: &Tile<T>, table: &[f64]) -> Tile<T> {
    let mask = table.len() as i32 - 1;
    match tile {
        Tile::Int(v) => {
            Tile::Float(v.iter().map(|c| T::from_f64(table[(c & mask) as usize])).collect())
        }
        _ => unreachable!("verified codes are integers"),
    }
}
