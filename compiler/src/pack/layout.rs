//! Which element of a stored tensor goes where in a packed one.

use ir::kernel::{PackStep, Packing};

/// Marks a padded element.
pub const PAD: u32 = u32::MAX;

/// How many blocks cover an extent.
pub fn blocks(extent: i64, block: i64) -> i64 {
    (extent + block - 1) / block
}

/// A packed weight is made panel by panel: `rows` rows of `cols` codes become `order.len()` codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panel {
    /// Rows of the tensor that one panel takes.
    pub rows: u32,
    /// For each packed element, `row * cols + col` in the panel, or [`PAD`].
    pub order: Vec<u32>,
}

/// The panel of a packing of `[batch, rows, cols]` (or fewer axes; the last two are rows and
/// columns), or `None` if panels are not contiguous in it.
///
/// A row-major tensor's panel is one row.
pub fn panel(packing: Option<&Packing>, rank: usize, cols: u32) -> Option<Panel> {
    let Some(Packing(steps)) = packing else {
        return Some(Panel { rows: 1, order: (0..cols).collect() });
    };
    let (row_axis, col_axis) = (rank.checked_sub(2)? as u32, rank as u32 - 1);
    let mut inner = steps.as_slice();
    for leading in 0..=row_axis {
        let (first, rest) = inner.split_first()?;
        let PackStep::Outer { axis, divisor } = first else { return None };
        if *axis != leading || (leading < row_axis && *divisor != 1) {
            return None;
        }
        inner = rest;
    }
    let rows = divisor_of(steps, row_axis)?;
    // Position along each axis is accumulated from slow to fast; `None` is past the edge.
    let mut positions: Vec<(u64, u64)> = vec![(0, 0)];
    for step in inner {
        let (axis, extent, stride) = factor(step, cols, col_axis)?;
        positions = positions
            .iter()
            .flat_map(|(r, c)| {
                (0..extent).map(move |k| {
                    let along = k * stride;
                    if axis == col_axis { (*r, c + along) } else { (r + along, *c) }
                })
            })
            .collect();
    }
    let wide = u64::from(cols);
    let place = |(r, c): &(u64, u64)| if *c < wide { (r * wide + c) as u32 } else { PAD };
    Some(Panel { rows, order: positions.iter().map(place).collect() })
}

fn divisor_of(steps: &[PackStep], wanted: u32) -> Option<u32> {
    steps.iter().find_map(|s| match s {
        PackStep::Outer { axis, divisor } if *axis == wanted => Some(*divisor),
        _ => None,
    })
}

/// Axis of a step, how many positions it takes, and their distance along the axis.
fn factor(step: &PackStep, cols: u32, col_axis: u32) -> Option<(u32, u64, u64)> {
    match step {
        PackStep::Outer { axis, divisor } if *axis == col_axis => {
            Some((*axis, u64::from(cols.div_ceil(*divisor)), u64::from(*divisor)))
        }
        PackStep::Inner { axis, stride, extent } => {
            Some((*axis, u64::from(*extent), u64::from(*stride)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PackStep::{Inner, Outer};

    fn pairs() -> Packing {
        Packing(vec![
            Outer { axis: 0, divisor: 4 },
            Outer { axis: 1, divisor: 2 },
            Inner { axis: 0, stride: 1, extent: 4 },
            Inner { axis: 1, stride: 1, extent: 2 },
        ])
    }

    #[test]
    fn pairs_of_columns_lie_together_and_the_edge_is_padded() {
        let p = panel(Some(&pairs()), 2, 3).expect("panels are contiguous");
        assert_eq!(p.rows, 4);
        assert_eq!(p.order[..8], [0, 1, 3, 4, 6, 7, 9, 10]);
        assert_eq!(p.order[8..], [2, PAD, 5, PAD, 8, PAD, 11, PAD]);
    }

    #[test]
    fn row_major_is_one_row() {
        let p = panel(None, 3, 5).expect("rows are contiguous");
        assert_eq!((p.rows, p.order), (1, vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn other_orders_are_refused() {
        let columns_first =
            Packing(vec![Outer { axis: 1, divisor: 1 }, Outer { axis: 0, divisor: 1 }]);
        assert_eq!(panel(Some(&columns_first), 2, 3), None);
    }
}
