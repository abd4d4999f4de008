//! The meaning of each operation, on tiles small enough to know the answer.

use ir::kernel::interp::{Buffer, Real, run};
use ir::kernel::parse;

/// Runs statements that define `%r` of type `ty`, over `%x: f32[4, 4]` of these values, and returns
/// its elements.
fn result_of<T: Real>(body: &str, ty: &str, x: [f32; 16]) -> Vec<f32> {
    let (dtype, shape) = ty.split_once('[').unwrap_or((ty, "]"));
    let extents: Vec<usize> =
        shape.trim_end_matches(']').split(", ").filter_map(|e| e.parse().ok()).collect();
    let coords: Vec<_> = extents.iter().map(|e| format!("0+{e}")).collect();
    let store = match dtype {
        "f32" => format!("store %r, %y[{}]", coords.join(", ")),
        _ => format!(
            "%rf = map {{ float(%r) }} : f32[{}\n store %rf, %y[{}]",
            shape,
            coords.join(", ")
        ),
    };
    let source = format!(
        "kernel @k row (%x: in f32[4, 4], %y: out f32[{shape}) {{ grid {{
         %x0 = load %x[0+4, 0+4] : f32[4, 4]
         {body}
         {store}
        }} }}"
    );
    let kernel = parse::kernel(&source).unwrap_or_else(|e| panic!("{source}\n{e:#?}"));
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut y = vec![0; extents.iter().product::<usize>() * 4];
    run::<T>(&kernel, vec![Buffer::Read(&bytes), Buffer::Write(&mut y)], &[]).expect("it runs");
    let (numbers, _) = y.as_chunks::<4>();
    numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

const COUNT: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

fn check(body: &str, ty: &str, expected: &[f32]) {
    assert_eq!(result_of::<f32>(body, ty, COUNT), expected, "{body}");
    assert_eq!(result_of::<f64>(body, ty, COUNT), expected, "{body}");
}

#[test]
fn shapes_are_rearranged() {
    let first = [0., 4., 8., 12., 1., 5., 9., 13., 2., 6., 10., 14., 3., 7., 11., 15.];
    check("%r = transpose %x0 [1, 0] : f32[4, 4]", "f32[4, 4]", &first);
    let blocks = "%s = split %x0 over 1 [2, 2] : f32[4, 2, 2]
        %t = transpose %s [1, 0, 2] : f32[2, 4, 2]
        %r = merge %t over 0+2 : f32[8, 2]";
    let expected = [0., 1., 4., 5., 8., 9., 12., 13., 2., 3., 6., 7., 10., 11., 14., 15.];
    check(blocks, "f32[8, 2]", &expected);
    check("%r = slice %x0 [1, 2] : f32[2, 1]", "f32[2, 1]", &[6., 10.]);
    let joined = "%a = slice %x0 [0, 0] : f32[2, 1]
        %b = slice %x0 [2, 1] : f32[2, 2]
        %r = concat %a, %b over 1 : f32[2, 3]";
    check(joined, "f32[2, 3]", &[0., 9., 10., 4., 13., 14.]);
    let repeated = "%a = slice %x0 [0, 0] : f32[1, 2]
        %m = merge %a over 0+2 : f32[2]
        %r = broadcast %m over 0 : f32[3, 2]";
    check(repeated, "f32[3, 2]", &[0., 1., 0., 1., 0., 1.]);
    let other = repeated.replace("over 0 : f32[3, 2]", "over 1 : f32[2, 3]");
    check(&other, "f32[2, 3]", &[0., 0., 0., 1., 1., 1.]);
}

#[test]
fn axes_are_folded() {
    check("%r = reduce add %x0 over 0 : f32[4]", "f32[4]", &[24., 28., 32., 36.]);
    check("%r = reduce max %x0 over 1 : f32[4]", "f32[4]", &[3., 7., 11., 15.]);
    check("%r = reduce min %x0 over 1 : f32[4]", "f32[4]", &[0., 4., 8., 12.]);
    let scanned = "%s = scan add %x0 over 1 : f32[4, 4]
        %r = slice %s [1, 0] : f32[2, 4]";
    check(scanned, "f32[2, 4]", &[4., 9., 15., 22., 8., 17., 27., 38.]);
    let down = "%s = scan max %x0 over 0 : f32[4, 4]
        %r = slice %s [3, 0] : f32[1, 4]";
    check(down, "f32[1, 4]", &[12., 13., 14., 15.]);
}

#[test]
fn operands_of_lower_rank_repeat_along_trailing_axes() {
    let body = "%s = reduce add %x0 over 1 : f32[4]
        %r = map { %x0 - %s } : f32[4, 4]";
    let expected: Vec<f32> =
        (0..16).map(|i| i as f32 - (0..4).map(|k| (i / 4 * 4 + k) as f32).sum::<f32>()).collect();
    check(body, "f32[4, 4]", &expected);
}

#[test]
fn integers_divide_downwards() {
    let body = "%i = iota 0 : i32[6]\n %r = map { (%i - 3) / 2 } : i32[6]";
    check(body, "i32[6]", &[-2., -1., -1., 0., 0., 1.]);
    let body = "%i = iota 0 : i32[6]\n %r = map { rem(%i - 3, 4) } : i32[6]";
    check(body, "i32[6]", &[1., 2., 3., 0., 1., 2.]);
}

#[test]
fn casts_round_to_even_and_saturate() {
    let body = |to: &str| {
        format!(
            "%h = map {{ (%x0 - 7.5) * 100 }} : f32[4, 4]
             %c = cast %h : {to}[4, 4]
             %w = map {{ float(%c) }} : f32[4, 4]
             %r = slice %w [0, 0] : f32[1, 4]"
        )
    };
    check(&body("i8"), "f32[1, 4]", &[-128., -128., -128., -128.]);
    check(&body("i4"), "f32[1, 4]", &[-8., -8., -8., -8.]);
    check(&body("i32"), "f32[1, 4]", &[-750., -650., -550., -450.]);
    check(&body("bf16"), "f32[1, 4]", &[-752., -648., -552., -450.]);
    check(&body("fp8_e4m3"), "f32[1, 4]", &[-448., -448., -448., -448.]);
    let half = "%h = map { %x0 / 2 } : f32[4, 4]
        %c = cast %h : i32[4, 4]
        %r = slice %c [0, 0] : i32[2, 4]";
    check(half, "i32[2, 4]", &[0., 0., 1., 2., 2., 2., 3., 4.]);
}

#[test]
fn only_casts_round_in_f64() {
    // 1 + 2^-30 - 1 is lost in f32.
    let body = "%t = map { (%x0 + 0.000000001) - %x0 } : f32[4, 4]
        %r = slice %t [0, 1] : f32[1, 1]";
    assert_eq!(result_of::<f32>(body, "f32[1, 1]", COUNT), [0.0]);
    let wide = result_of::<f64>(body, "f32[1, 1]", COUNT)[0];
    assert!((wide - 1e-9).abs() < 1e-15, "{wide}");
    let cast = body.replace("[0, 1] : f32[1, 1]", "[0, 1] : f32[1, 1]\n %u = cast %t : bf16[4, 4]");
    assert_eq!(result_of::<f64>(&cast, "f32[1, 1]", COUNT), [wide]);
}

#[test]
fn blocks_are_quantised_to_their_greatest_magnitude() {
    let body = "%e = encode %x0 : i8<f32 1x2>[4, 4]
        %d = decode %e : f32[4, 4]
        %r = slice %d [3, 0] : f32[1, 4]";
    let code = |v: f32, top: f32| (v / (top / 127.0)).round_ties_even() * (top / 127.0);
    let expected = [code(12., 13.), 13., code(14., 15.), 15.];
    assert_eq!(result_of::<f32>(body, "f32[1, 4]", COUNT), expected);
    let zeros = body.replace("[3, 0] : f32[1, 4]", "[0, 0] : f32[1, 4]");
    assert_eq!(result_of::<f32>(&zeros, "f32[1, 4]", [0.0; 16]), [0.0; 4]);
}

#[test]
fn products_of_codes_are_products_of_values() {
    // Blocks of 3 and of 2 meet at every cut of a depth of 4.
    let product = |p: &str, q: &str| {
        format!(
            "%zero = splat 1 : f32[4, 4]
             %a = encode %x0 : i8<f32 1x3>[4, 4]
             %b = encode %x0 : fp8_e4m3<f32 2x2>[4, 4]
             %da = decode %a : f32[4, 4]
             %db = decode %b : f32[4, 4]
             %r = mma %zero, {p}, {q} : f32[4, 4]"
        )
    };
    let decoded = result_of::<f64>(&product("%da", "%db"), "f32[4, 4]", COUNT);
    let coded = product("%a", "%b");
    for run in [result_of::<f64>, result_of::<f32>] {
        for (x, y) in run(&coded, "f32[4, 4]", COUNT).iter().zip(&decoded) {
            assert!((x - y).abs() <= 1e-5 * y.abs(), "{x} {y}");
        }
    }
    assert!(decoded[15] > 700.0, "a sum of squares of 12 to 15");
}

#[test]
fn the_greatest_come_first_and_ties_go_to_the_lower() {
    let body = "%m = map { %x0 - 4 * float(int(%x0 / 4)) } : f32[4, 4]
        %v = map { max(%m, 1) } : f32[4, 4]
        %t = topk 4 %v : i32[4, 4]
        %r = slice %t [0, 0] : i32[1, 4]";
    check(body, "i32[1, 4]", &[3., 2., 0., 1.]);
    let masked = "%ok = map { %x0 < 3 } : bool[4, 4]
        %t = topk 4 %x0 where %ok : i32[4, 4]
        %r = slice %t [0, 0] : i32[2, 4]";
    check(masked, "i32[2, 4]", &[2., 1., 0., 3., 0., 1., 2., 3.]);
}

#[test]
fn positions_are_picked_and_placed() {
    let body = "%i = splat 2 : i32[4, 1]\n %r = pick %x0, %i : f32[4, 1]";
    check(body, "f32[4, 1]", &[2., 6., 10., 14.]);
    let body = "%i = iota 1 : i32[4, 4]
        %j = map { %i / 2 } : i32[4, 4]
        %p = place %x0, %j : f32[4, 3]
        %r = slice %p [1, 0] : f32[1, 3]";
    check(body, "f32[1, 3]", &[9., 13., 0.]);
    let body = "%i = iota 0 : i32[3]
        %c = map { %i - 1 } : i32[3]
        %d = cast %c : i4[3]
        %r = lookup %d [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 99] : f32[3]";
    check(body, "f32[3]", &[99., 0., 1.]);
}

#[test]
fn masked_elements_load_as_zero_and_are_not_stored() {
    let body = "%r = load %x[2+4 where <4, 3] : f32[4]";
    check(body, "f32[4]", &[11., 15., 0., 0.]);
    // Wholly masked rows may lie anywhere.
    check("%r = load %x[9+2 where <4, 3] : f32[2]", "f32[2]", &[0., 0.]);
    let gathered = "%i = iota 0 : i32[3]
        %j = map { 5 - 3 * %i } : i32[3]
        %r = load %x[%j where <4, 1+2] : f32[3, 2]";
    check(gathered, "f32[3, 2]", &[0., 0., 9., 10., 0., 0.]);
    let scattered = "%buf = alloc : f32[4]
        %low = splat 7 : f32[4]
        store %low, %buf[0+4]
        %i = iota 0 : i32[4]
        %j = map { 3 - 2 * %i } : i32[4]
        %v = load %x[3, 0+4] : f32[4]
        store %v, %buf[%j where <4]
        %r = load %buf[0+4] : f32[4]";
    check(scattered, "f32[4]", &[7., 13., 7., 12.]);
}

#[test]
fn loops_carry_and_choices_choose() {
    let body = |n: i32| {
        format!(
            "%a = splat 1 : f32
             %b = splat 2 : f32
             %p, %q = for %k in 0..{n} step 2 carry %c = %a, %d = %b {{
               %odd = map {{ rem(%k, 4) == 2 }} : bool
               %e = if %odd {{
                 %s = map {{ %c + %d }} : f32
                 yield %s
               }} else {{
                 yield %d
               }}
               yield %e, %c
             }}
             %t = map {{ %p * 100 + %q }} : f32
             %r = broadcast %t over 0 : f32[1]"
        )
    };
    // (1, 2) -> (2, 1) -> (3, 2) -> (2, 3)
    for (n, expected) in [(0, 102.), (1, 201.), (3, 302.), (5, 203.), (-4, 102.)] {
        check(&body(n), "f32[1]", &[expected]);
    }
}
