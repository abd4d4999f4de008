//! Every operation but the product, natively and by the interpreter.

use ir::target::Target;
use tests::kernel::{Case, Native, Noise, levels};
use tests::native::targets;

/// A kernel over rows of `n`, four at a time, from its parameters and its body.
fn rows(params: &str, body: &str) -> Case {
    let text = format!(
        "kernel @rows row ({params}) where 1 <= n <= 64 {{
          grid %i in 0..n step 4 {{
            {body}
          }}
        }}"
    );
    Case::new(&text, &[10])
}

#[test]
fn expressions() {
    for (expr, tolerance) in [
        ("%a + %b * 2 - %c", 1e-6),
        ("-%a / (abs(%b) + 0.5)", 1e-6),
        ("min(%a, %b) + max(%b, %c)", 1e-6),
        ("exp(%a * 3) + exp2(%b)", 1e-6),
        ("log(abs(%a) + 0.01) + log2(abs(%b) + 0.01)", 1e-6),
        ("sqrt(abs(%a)) * sigmoid(%b * 4)", 1e-6),
        ("tanh(%a) + tanh(%b * 0.1)", 1e-6),
        ("sin(%a * 100) + cos(%b * 1000)", 1e-6),
        ("floor(%a * 7)", 0.0),
        ("select(%a < %b & not(%b >= %c), %a, lowest)", 0.0),
        ("select(%a == %b | %a != %c, float(int(%a * 9)), %b)", 0.0),
        ("float(%p * 3 + %q - 5)", 0.0),
        ("float((%p + 9) / 4 + rem(%q + 20, 8))", 0.0),
        ("float((%p - 9) / 7 + rem(%q, 3) + min(%p, %q) + abs(%p))", 0.0),
        ("select((%a < 0) == (%b < 0), float(%a > 0), -1)", 0.0),
        ("float(-%p) + float(max(%p, %q))", 0.0),
    ] {
        rows(
            "%x: in f32[n, 37], %y: in bf16[n, 37], %z: in f16[n, 37], %u: in i32[n, 37],
             %v: in i8[n, 37], %o: out f32[n, 37]",
            &format!(
                "%a = load %x[%i+4 where <n, 0+37] : f32[4, 37]
                 %b = load %y[%i+4 where <n, 0+37] : bf16[4, 37]
                 %c = load %z[%i+4 where <n, 0+37] : f16[4, 37]
                 %p = load %u[%i+4 where <n, 0+37] : i32[4, 37]
                 %v0 = load %v[%i+4 where <n, 0+37] : i8[4, 37]
                 %q = cast %v0 : i32[4, 37]
                 %r = map {{ {expr} }} : f32[4, 37]
                 store %r, %o[%i+4 where <n, 0+37]"
            ),
        )
        .tolerance(tolerance)
        .check();
    }
}

#[test]
fn casts() {
    let from = ["f32", "bf16", "f16", "fp8_e4m3", "i32", "i8", "u8", "bool"];
    let to = ["f32", "bf16", "f16", "fp8_e4m3", "e8m0", "i32", "i8", "u8", "bool"];
    for (i, from) in from.into_iter().enumerate() {
        for (j, to) in to.into_iter().enumerate() {
            rows(
                &format!("%x: in {from}[n, 21], %o: out {to}[n, 21]"),
                &format!(
                    "%a = load %x[%i+4 where <n, 0+21] : {from}[4, 21]
                     %r = cast %a : {to}[4, 21]
                     store %r, %o[%i+4 where <n, 0+21]"
                ),
            )
            .tolerance(0.0)
            .check_in_turn(i + j);
        }
    }
}

/// Wide ranges through each float type, as a cast in the middle and as memory.
#[test]
fn rounding() {
    for to in ["bf16", "f16", "fp8_e4m3"] {
        rows(
            &format!("%x: in f32[n, 40], %o: out f32[n, 40], %p: out {to}[n, 40]"),
            &format!(
                "%a = load %x[%i+4 where <n, 0+40] : f32[4, 40]
                 %r = cast %a : {to}[4, 40]
                 %w = map {{ %r * 1 }} : f32[4, 40]
                 store %w, %o[%i+4 where <n, 0+40]
                 store %r, %p[%i+4 where <n, 0+40]"
            ),
        )
        .set("x", |p| {
            let mut noise = Noise(p[0] * 40 + p[1]);
            let bits = noise.bits() as u32;
            let special = [f32::NAN, f32::INFINITY, -f32::INFINITY, 0.0, -0.0, 65520.0, 65519.9];
            match bits % 5 {
                0 => f64::from(special[bits as usize / 5 % 7]),
                1 => f64::from(f32::from_bits(bits)),
                2 => (f64::from(bits % 4096) / 4096.0) * 2f64.powi(-8),
                3 => noise.real() * 2f64.powi(noise.below(40) as i32 - 28),
                _ => noise.real() * 500.0,
            }
        })
        .tolerance(0.0)
        .check();
    }
}

/// Edges of the elementary functions.
#[test]
fn extremes() {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e-40,
        -1e-40,
        1e-45,
        88.0,
        88.8,
        89.5,
        127.9,
        128.0,
        128.1,
        -87.0,
        -103.0,
        -104.5,
        -126.5,
        -149.0,
        -149.9,
        -151.0,
        3.4e38,
        -3.4e38,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        2e5,
        -123456.7,
        1e30,
        0.7,
        12345.678,
        2.5e-7,
        1e-30,
    ];
    for f in ["exp", "exp2", "log", "log2", "sqrt", "sigmoid", "tanh", "sin", "cos"] {
        let circular = ["sin", "cos"].contains(&f);
        rows(
            "%x: in f32[n, 32], %o: out f32[n, 32]",
            &format!(
                "%a = load %x[%i+4 where <n, 0+32] : f32[4, 32]
                 %r = map {{ {f}(%a) }} : f32[4, 32]
                 store %r, %o[%i+4 where <n, 0+32]"
            ),
        )
        .set("x", |p| match values[p[1] as usize] {
            v if circular && v.is_finite() && v.abs() > 1e6 => 0.5,
            v => v * (1.0 + p[0] as f64 * 1e-3),
        })
        .tolerance(1e-6)
        .check();
    }
}

/// Relative error of the functions over their ranges, in units of the last place.
#[test]
fn accuracy() {
    for (f, lo, hi) in [
        ("exp", -80.0, 80.0),
        ("exp2", -120.0, 120.0),
        ("log", 1e-6, 50.0),
        ("log2", 1e-6, 50.0),
        ("tanh", -3.0, 3.0),
        ("sigmoid", -30.0, 30.0),
        ("sin", -2e5, 2e5),
        ("cos", -2e5, 2e5),
    ] {
        let case = rows(
            "%x: in f32[n, 4096], %o: out f32[n, 4096]",
            &format!(
                "%a = load %x[%i+4 where <n, 0+4096] : f32[4, 4096]
                 %r = map {{ {f}(%a) }} : f32[4, 4096]
                 store %r, %o[%i+4 where <n, 0+4096]"
            ),
        );
        let mut noise = Noise(7);
        let case =
            case.set("x", |_| lo + (hi - lo) * (noise.below(1 << 30) as f64 / f64::from(1 << 30)));
        for target in targets() {
            for level in levels(&*target, &case.kernel) {
                let worst = worst_ulps(&case, f, &*target, level);
                assert!(worst <= 3.0, "{f} ({level}/{}) is off by {worst} ulp", target.name());
            }
        }
    }
}

fn worst_ulps(case: &Case, f: &str, target: &dyn Target, level: &str) -> f64 {
    let found = case.native(&Native::new(&case.kernel, target, level));
    let float = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    let inputs = case.tensors[0].bytes.chunks(4).map(float);
    let outputs = found[1].chunks(4).map(float);
    let worst = inputs.zip(outputs).map(|(x, y)| {
        let x = f64::from(x);
        let exact = match f {
            "exp" => x.exp(),
            "exp2" => x.exp2(),
            "log" => x.ln(),
            "log2" => x.log2(),
            "tanh" => x.tanh(),
            "sigmoid" => 1.0 / (1.0 + (-x).exp()),
            "sin" => x.sin(),
            _ => x.cos(),
        };
        let ulp = f64::from((exact as f32).abs().next_up()) - f64::from((exact as f32).abs());
        (f64::from(y) - exact).abs() / ulp
    });
    worst.fold(0.0, f64::max)
}

#[test]
fn reductions_and_scans() {
    for fold in ["add", "max", "min"] {
        for (ty, axis, shape) in
            [("f32", 0, "[19]"), ("f32", 1, "[4]"), ("i32", 0, "[19]"), ("i32", 1, "[4]")]
        {
            rows(
                &format!("%x: in {ty}[n, 19], %o: out {ty}[n, 19], %s: out {ty}[n, 19]"),
                &format!(
                    "%a = load %x[%i+4 where <n, 0+19] : {ty}[4, 19]
                     %b = map {{ %a * 2 + 1 }} : {ty}[4, 19]
                     %r = reduce {fold} %b over {axis} : {ty}{shape}
                     %k = broadcast %r over {axis} : {ty}[4, 19]
                     store %k, %o[%i+4 where <n, 0+19]
                     %t = scan {fold} %a over {axis} : {ty}[4, 19]
                     store %t, %s[%i+4 where <n, 0+19]"
                ),
            )
            .check();
        }
    }
}

#[test]
fn reduction_to_a_scalar_and_of_three_axes() {
    Case::new(
        "kernel @deep row (%x: in f32[n, 5, 33], %o: out f32[n], %q: out f32[n, 33],
          %m: out f32[n, 5]) where 1 <= n <= 9 {
          grid %i in 0..n step 1 {
            %a = load %x[%i, 0+5, 0+33] : f32[5, 33]
            %row = reduce add %a over 1 : f32[5]
            %all = reduce max %row over 0 : f32
            %half = map { %all / 2 } : f32
            store %half, %o[%i]
            %two = load %x[0+1, 0+5, 0+33] : f32[1, 5, 33]
            %mid = reduce add %two over 1 : f32[1, 33]
            %flat = merge %mid over 0+2 : f32[33]
            %more = map { %flat + %all } : f32[33]
            store %more, %q[%i, 0+33]
            %sorted = scan add %row over 0 : f32[5]
            store %sorted, %m[%i, 0+5]
          }
        }",
        &[4],
    )
    .check();
}

#[test]
fn masks_along_both_axes() {
    Case::new(
        "kernel @masks row (%x: in f32[n, c], %y: in bf16[n, c], %o: out f32[n, 32],
          %p: inout f32[n, c]) where 1 <= c <= 32, 1 <= n <= 9 {
          grid %i in 0..n step 4 {
            %a = load %x[%i+4 where <n, 0+32 where <c] : f32[4, 32]
            %b = load %y[%i+4 where <n, 0+32 where <c] : bf16[4, 32]
            %s = map { %a + %b + 1 } : f32[4, 32]
            %h = reduce add %s over 1 : f32[4]
            %k = map { %s - %h } : f32[4, 32]
            store %k, %o[%i+4 where <n, 0+32]
            store %s, %p[%i+4 where <n, 0+32 where <c]
          }
        }",
        &[13, 6],
    )
    .check();
}

#[test]
fn gathers_and_scatters() {
    let ids = [3, 0, 7, 7, 1, -2, 4, 12, 5, 6];
    let to = [9, 8, 7, -1, 5, 4, 3, 99, 1, 0];
    let text = "kernel @gather row (%x: in f32[m, 11], %t: in fp8_e4m3<f32 2x4>[m, 11],
      %ids: in i32[n], %to: in i32[n],
         %o: out f32[n, 11], %p: inout bf16[n, 11], %q: out f32[n, 3]) where 1 <= m <= 64,
           1 <= n <= 64 {
      grid %i in 0..n step 4 {
         %r = load %ids[%i+4 where <n] : i32[4]
         %w = load %to[%i+4 where <n] : i32[4]
         %a = load %x[%r where <m, 0+11] : f32[4, 11]
         %e = load %t[%r where <m, 0+11] : f32[4, 11]
         %s = map { %a + %e } : f32[4, 11]
         store %s, %o[%i+4 where <n, 0+11]
         %c = cast %s : bf16[4, 11]
         store %c, %p[%w where <n, 0+11]
         %at = iota 0 : i32[3]
         %pos = map { 2 * %at + 1 } : i32[3]
         %g = load %x[0+4, %pos] : f32[4, 3]
         store %g, %q[%i+4 where <n, 0+3]
      }
    }";
    Case::new(text, &[8, 8])
        .set("ids", |p| f64::from(ids[p[0] as usize]))
        .set("to", |p| f64::from(to[p[0] as usize]))
        .check();
}

#[test]
fn shapes() {
    let body = "%a = load %x[%i, 0+24] : f32[24]
         %m = split %a over 0 [4, 6] : f32[4, 6]
         %b = load %y[%i, 0+24] : bf16[24]
         %mb = split %b over 0 [4, 6] : bf16[4, 6]
         %e = map { exp(%m) + %mb } : f32[4, 6]
         %t = transpose %e [1, 0] : f32[6, 4]
         %u = slice %t [1, 1] : f32[5, 3]
         %v = merge %u over 0+2 : f32[15]
         %c = concat %v, %a, %v over 0 : f32[54]
         store %c, %o[%i, 0+54]
         %lb = iota 0 : i32[6, 5]
         %l1 = iota 1 : i32[6, 5]
         %mix = map { 10 * %lb + %l1 } : i32[6, 5]
         %cut = slice %mix [2, 1] : i32[3, 4]
         store %cut, %r[%i, 0+3, 0+4]
         %col = reduce max %e over 1 : f32[4]
         %rep = broadcast %col over 1 : f32[4, 6]
         %rep2 = broadcast %rep over 0 : f32[2, 4, 6]
         %sc = map { %rep2 * 2 } : f32[2, 4, 6]
         %bk = broadcast %sc over 3 : f32[2, 4, 6, 2]
         %tr = transpose %bk [3, 1, 0, 2] : f32[2, 4, 2, 6]
         store %tr, %p[%i, 0+2, 0+4, 0+2, 0+6]
         %low = map { %e + %col } : f32[4, 6]
         %bl = broadcast %low over 2 : f32[4, 6, 2]
         %tl = transpose %bl [2, 1, 0] : f32[2, 6, 4]
         store %tl, %q[%i, 0+2, 0+6, 0+4]";
    Case::new(
        &format!(
            "kernel @shapes row (%x: in f32[n, 24], %y: in bf16[n, 24], %o: out f32[n, 54],
              %r: out i32[n, 3, 4],
               %p: out f32[n, 2, 4, 2, 6], %q: out f32[n, 2, 6, 4]) where 1 <= n <= 9 {{
              grid %i in 0..n step 1 {{ {body} }}
            }}"
        ),
        &[3],
    )
    .check();
}

#[test]
fn topk_pick_place() {
    for (k, extent) in [(1, 3), (3, 8), (8, 21), (64, 512), (5, 5)] {
        Case::new(
            &format!(
                "kernel @best row (%x: in f32[n, {extent}], %m: in bool[n, {extent}],
                  %u: in i32[n, {extent}], %i0: out i32[n, {k}], %i1: out i32[n, {k}],
                  %i2: out i32[n, {k}], %v: out f32[n, {k}], %w: out f32[n, {extent}])
                  where 1 <= n <= 9 {{
                  grid %i in 0..n step 2 {{
                    %a = load %x[%i+2 where <n, 0+{extent}] : f32[2, {extent}]
                    %q = map {{ floor(%a * 3) / 3 }} : f32[2, {extent}]
                    %mask = load %m[%i+2 where <n, 0+{extent}] : bool[2, {extent}]
                    %ints = load %u[%i+2 where <n, 0+{extent}] : i32[2, {extent}]
                    %t0 = topk {k} %q : i32[2, {k}]
                    %t1 = topk {k} %q where %mask : i32[2, {k}]
                    %t2 = topk {k} %ints : i32[2, {k}]
                    store %t0, %i0[%i+2 where <n, 0+{k}]
                    store %t1, %i1[%i+2 where <n, 0+{k}]
                    store %t2, %i2[%i+2 where <n, 0+{k}]
                    %p = pick %q, %t1 : f32[2, {k}]
                    store %p, %v[%i+2 where <n, 0+{k}]
                    %same = map {{ %t1 / 2 }} : i32[2, {k}]
                    %back = place %p, %same : f32[2, {extent}]
                    store %back, %w[%i+2 where <n, 0+{extent}]
                  }}
                }}"
            ),
            &[5],
        )
        .check();
    }
}

#[test]
fn lookups() {
    let table: Vec<String> = (0..256).map(|i| format!("{}", f64::from(i * i) / 7.0)).collect();
    rows(
        "%x: in u8[n, 9], %y: in i32[n, 9], %o: out f32[n, 9], %p: out f32[n, 9]",
        &format!(
            "%a = load %x[%i+4 where <n, 0+9] : u8[4, 9]
             %b = load %y[%i+4 where <n, 0+9] : i32[4, 9]
             %r = lookup %a [{}] : f32[4, 9]
             %s = lookup %b [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1] : f32[4, 9]
             store %r, %o[%i+4 where <n, 0+9]
             %t = map {{ %s + %r }} : f32[4, 9]
             store %t, %p[%i+4 where <n, 0+9]",
            table.join(", ")
        ),
    )
    .check();
}

#[test]
fn encoding() {
    for to in [
        "i8<f32 1x8>",
        "i8<f32 1x8 sum>",
        "i8<bf16 2x5>",
        "fp8_e4m3<f32 1x16>",
        "fp8_e4m3<e8m0 1x32>",
        "i4<f16 1x6>",
        "fp4_e2m1<e8m0 1x8>",
    ] {
        rows(
            &format!("%x: in f32[n, 23], %o: out {to}[n, 23], %p: out f32[n, 23]"),
            &format!(
                "%a = load %x[%i+4 where <n, 0+23] : f32[4, 23]
                 %b = map {{ %a * 0.37 }} : f32[4, 23]
                 %c = encode %b : {to}[4, 23]
                 store %c, %o[%i+4 where <n, 0+23]
                 %d = decode %c : f32[4, 23]
                 store %d, %p[%i+4 where <n, 0+23]"
            ),
        )
        .set("x", |p| (p[0] as f64 * 13.0 + p[1] as f64 * 7.3).sin())
        .check();
    }
}

/// Blocks that are whole vectors, stored to whole blocks: rows of heads, and columns of a grid.
#[test]
fn encoding_of_whole_blocks() {
    for to in ["i8<f32 1x32 sum>", "i8<f32 1x64>", "i8<f16 1x16 sum>", "i8<f32 1x128 sum>"] {
        let heads = format!(
            "kernel @heads row (%x: in f32[n, 3, 128], %o: out {to}[n, 3, 128]) where 0 <= n <= 9 {{
               grid %i in 0..n step 1 {{
                 %a = load %x[%i, 0+3, 0+128] : f32[3, 128]
                 %b = encode %a : {to}[3, 128]
                 store %b, %o[%i, 0+3, 0+128]
               }}
             }}"
        );
        let columns = format!(
            "kernel @columns row (%x: in f32[n, 384], %o: out {to}[n, 384], %p: out f32[n, 384])
               where 0 <= n <= 9 {{
               grid %i in 0..n step 4, %j in 0..384 step 128 {{
                 %a = load %x[%i+4 where <n, %j+128] : f32[4, 128]
                 %b = map {{ %a * 0.37 }} : f32[4, 128]
                 %c = encode %b : {to}[4, 128]
                 store %c, %o[%i+4 where <n, %j+128]
                 %d = decode %c : f32[4, 128]
                 store %d, %p[%i+4 where <n, %j+128]
               }}
             }}"
        );
        let value = |p: &[u64]| p.iter().fold(1.3, |s, at| s * 7.3 + *at as f64).sin();
        for (text, n) in [(&heads, 2), (&columns, 6)] {
            Case::new(text, &[n]).set("x", value).check();
        }
    }
}

/// What a tile of a tensor consists of: its numbers, decoded if they are encoded.
fn plain(ty: &str) -> &str {
    let element = ty.split('[').next().unwrap_or(ty);
    if element.contains('<') { "f32" } else { element }
}

#[test]
fn encoded_and_packed_loads() {
    for ty in [
        "fp8_e4m3<f32 3x8>[n, 40]",
        "i8<f16 1x32>[n, 40]",
        "i4<bf16 1x6>[n, 40]",
        "fp4_e2m1<e8m0 1x32>[n, 40]",
        "i4[n, 40]",
        "bf16[n, 40] packed [0/4, 1/2, 0:4, 1:2]",
        "f32[n, 40] packed [1/8, 0/1, 1:8]",
        "i4<f16 1x8>[n, 40] packed [0/4, 1/16, {1:2, 0:4}, 1/8:2, 0:4, 1:8]",
        "i8<f32 1x8 sum>[n, 40] packed [0/4, 1/8, {0:4}, 1/4:2, 0:4, 1:4]",
    ] {
        let plain = plain(ty);
        rows(
            &format!("%x: in {ty}, %o: out f32[n, 40]"),
            &format!(
                "%a = load %x[%i+4 where <n, 0+40] : {plain}[4, 40]
                 %c = cast %a : f32[4, 40]
                 %b = map {{ %c * 1 }} : f32[4, 40]
                 store %b, %o[%i+4 where <n, 0+40]"
            ),
        )
        .check();
    }
}

#[test]
fn packed_stores() {
    for ty in [
        "bf16[n, 40] packed [0/4, 1/2, 0:4, 1:2]",
        "i4[n, 40]",
        "i4[n, 40] packed [1/8, 0/4, 0:4, 1:8]",
    ] {
        let plain = plain(ty);
        rows(
            &format!("%x: in f32[n, 40], %o: inout {ty}"),
            &format!(
                "%a = load %x[%i+4 where <n, 0+40] : f32[4, 40]
                 %b = map {{ %a * 3 }} : f32[4, 40]
                 %c = cast %b : {plain}[4, 40]
                 store %c, %o[%i+4 where <n, 0+40]"
            ),
        )
        .check();
    }
}
