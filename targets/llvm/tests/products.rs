//! Every form of product at every level that runs here, against plain sums in f64. Operands end
//! at pages that are not there. LATENTC_LONG_TESTS takes every size of a form at every level, else
//! each comes at one level in turn.

mod native;

use ir::dtype::{DType, Scale};
use native::data::Random;
use native::product::{Case, Lie, Prepared, check, programs};
use native::{Image, lanes};
use target_llvm::Llvm;

/// Extents: one, odd, around the sizes of registers and blocks, and beyond.
const SIZES: [(u32, u32, u32); 8] = [
    (1, 16, 64),
    (1, 17, 33),
    (2, 1, 1),
    (4, 16, 67),
    (5, 33, 32),
    (8, 31, 96),
    (13, 67, 67),
    (33, 80, 34),
];

/// Cases of a form: whole tiles, and tiles of which less is valid.
fn cases(left: DType, right: DType, lie: Lie) -> Vec<Case> {
    let whole = SIZES.map(|(m, n, k)| Case::of([m, n, k], [left, right], lie));
    let mut all = whole.to_vec();
    for (i, case) in whole.into_iter().enumerate() {
        let Case { m, n, k, .. } = case;
        let some = |e: u32| Some((e as i32 * 2).div_euclid(3).max(1));
        let valid = match i % 4 {
            0 => [some(m), None, None],
            1 => [None, some(n), None],
            2 => [None, None, some(k)],
            _ => [some(m), some(n), some(k)],
        };
        all.push(Case { valid, dense: i % 3 != 1, ..case });
    }
    for axis in 0..3 {
        for none in [0, -5] {
            let mut valid = [None; 3];
            valid[axis] = Some(none);
            all.push(Case { valid, ..whole[6] });
        }
    }
    all
}

/// Checks each case at the level whose turn it is, which `turn` moves on; where long tests are asked
/// for, at all.
fn check_in_turn(turn: usize, cases: &[Case]) {
    let levels = native::levels();
    let every = std::env::var_os("LATENTC_LONG_TESTS").map_or(levels.len(), |_| 1);
    for (i, level) in levels.iter().enumerate() {
        let own = cases.iter().skip((i + turn) % every).step_by(every);
        check(level, lanes(level), &own.copied().collect::<Vec<_>>());
    }
}

fn check_all(left: DType, right: DType, lie: Lie) {
    // Other operands begin elsewhere, so that a size meets other levels.
    check_in_turn(left as usize + right as usize, &cases(left, right, lie));
}

fn blocked(lanes: u32, group: u32) -> Lie {
    Lie::Blocked { lanes, group, scale: None }
}

fn scaled(group: u32, dtype: DType, rows: u32, cols: u32) -> Lie {
    Lie::Blocked { lanes: 16, group, scale: Some(Scale { dtype, rows, cols, sum: false }) }
}

#[test]
fn bf16_by_blocked_bf16() {
    check_all(DType::BF16, DType::BF16, blocked(16, 2));
}

#[test]
fn f32_by_blocked_bf16() {
    check_all(DType::F32, DType::BF16, blocked(16, 2));
    check_all(DType::F32, DType::BF16, blocked(8, 1));
}

#[test]
fn blocked_f32() {
    check_all(DType::F32, DType::F32, blocked(16, 1));
    check_all(DType::BF16, DType::F32, blocked(16, 2));
}

#[test]
fn blocked_f16() {
    check_all(DType::F32, DType::F16, blocked(16, 2));
    check_all(DType::F16, DType::F16, blocked(8, 2));
}

#[test]
fn rows_of_k() {
    check_all(DType::BF16, DType::BF16, Lie::Rows);
    check_all(DType::F32, DType::F32, Lie::Rows);
    check_all(DType::F32, DType::BF16, Lie::Rows);
    check_all(DType::BF16, DType::F16, Lie::Rows);
}

/// Few rows against the depth: every remainder of rows, columns and k.
#[test]
fn few_rows_of_k() {
    let mut all = Vec::new();
    for m in [1, 2, 3, 4, 5, 7, 8, 16] {
        for n in [1, 3, 4, 15, 16, 18] {
            for k in [200, 223, 224] {
                let case = Case::of([m, n, k], [DType::BF16; 2], Lie::Rows);
                all.push(case);
                if n > 2 && m != 1 {
                    let valid = [Some(m as i32 - 1), Some(n as i32 - 2), Some(k as i32 - 33)];
                    all.push(Case { valid, ..case });
                }
            }
        }
    }
    check_in_turn(0, &all);
}

#[test]
fn rows_of_n() {
    check_all(DType::BF16, DType::BF16, Lie::Columns { known: true });
    check_all(DType::BF16, DType::BF16, Lie::Columns { known: false });
    check_all(DType::F32, DType::F32, Lie::Columns { known: true });
    check_all(DType::F32, DType::F16, Lie::Columns { known: false });
}

#[test]
fn any_distances() {
    check_all(DType::BF16, DType::BF16, Lie::Scattered);
    check_all(DType::F32, DType::F32, Lie::Scattered);
}

#[test]
fn fp8_with_blocks_of_scales() {
    check_all(DType::BF16, DType::F8E4M3, scaled(4, DType::F32, 128, 128));
    check_all(DType::BF16, DType::F8E4M3, scaled(2, DType::F32, 16, 32));
    check_all(DType::F32, DType::F8E4M3, scaled(4, DType::F32, 32, 16));
    check_all(DType::F32, DType::F8E4M3, blocked(16, 1));
}

#[test]
fn integers_with_scales() {
    check_all(DType::BF16, DType::I8, scaled(4, DType::F32, 1, 1024));
    check_all(DType::F32, DType::I8, scaled(4, DType::F16, 1, 32));
    check_all(DType::BF16, DType::I4, scaled(8, DType::F16, 1, 32));
    check_all(DType::BF16, DType::I4, scaled(2, DType::E8M0, 16, 32));
    check_all(DType::F32, DType::I4, scaled(4, DType::BF16, 1, 64));
}

#[test]
fn sizes_one_by_one() {
    for level in native::levels() {
        let base = Case::of([1, 1, 1], [DType::BF16; 2], blocked(16, 2));
        let mut all = Vec::new();
        for s in 1..=67 {
            all.push(Case { m: s, n: 24, k: 36, valid: [Some(s as i32), None, None], ..base });
            all.push(Case { m: 6, n: s, k: 34, valid: [None, Some(s as i32), None], ..base });
            all.push(Case { m: 5, n: 20, k: s, valid: [None, None, Some(s as i32)], ..base });
        }
        // One function serves all valid extents of a tile.
        let all: Vec<Case> = all
            .into_iter()
            .map(|c| match c.valid {
                [Some(_), ..] => Case { m: 67, ..c },
                [_, Some(_), _] => Case { n: 67, ..c },
                _ => Case { k: 67, ..c },
            })
            .collect();
        check(level, lanes(level), &all);
    }
}

/// Batch-invariant products: a row's sums are the same, to the last bit, in tiles of fewer rows,
/// and where fewer are valid.
#[test]
fn rows_do_not_depend_on_their_number() {
    let forms = [
        (DType::BF16, DType::BF16, blocked(16, 2)),
        (DType::F32, DType::BF16, blocked(16, 2)),
        (DType::F32, DType::F32, blocked(16, 1)),
        (DType::BF16, DType::BF16, Lie::Rows),
        (DType::BF16, DType::BF16, Lie::Columns { known: true }),
        (DType::F32, DType::F16, Lie::Rows),
        (DType::BF16, DType::F8E4M3, scaled(4, DType::F32, 128, 128)),
        (DType::F32, DType::F8E4M3, scaled(4, DType::F32, 32, 16)),
        (DType::BF16, DType::I8, scaled(4, DType::F32, 1, 1024)),
        (DType::BF16, DType::I4, scaled(8, DType::F16, 1, 32)),
    ];
    for level in native::levels() {
        for (left, right, lie) in forms {
            let all = Case::of([67, 35, 583], [left, right], lie);
            rows_alone(level, &Case { batch_invariant: true, ..all });
        }
    }
}

fn rows_alone(level: &str, all: &Case) {
    let mut cases = vec![*all];
    for m in [1, 3, 8, 13, 33] {
        cases.push(Case { m, ..*all });
        cases.push(Case { valid: [Some(m as i32), None, None], ..*all });
    }
    let (programs, of) = programs(lanes(level), &cases);
    let object = Llvm::x86_64().compile_programs(&programs, level).expect("code");
    let image = Image::load(&object.bytes);
    let prepared = Prepared::new(all, &mut Random(7));
    let row = (all.n as usize + 5) * 4;
    let mut whole = None;
    for (case, at) in cases.iter().zip(of) {
        let (name, scratch) = &object.kernels[at];
        let few = case.valid[0].map_or(case.m, |m| m as u32);
        let found = prepared.accumulated(image.kernel(name), *scratch, few);
        let whole = whole.get_or_insert_with(|| found.clone());
        let end = found.len().min(few as usize * row);
        assert!(whole[..end] == found[..end], "{level}: {case:?}");
    }
}
