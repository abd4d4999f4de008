//! Constants and gathered weights that no kernel and no packer takes: lowering says so, and what
//! it takes in another way it takes.
#![allow(clippy::unwrap_used)]

use compiler::lower::{LowerError, lower};
use compiler::options::Options;
use ir::device::DeviceSpec;
use ir::graph::parse::parse_program;

/// Name, type and extents of a weight.
type Given = (&'static str, &'static str, &'static [i64]);

/// Lowers a program of one block over `%x: f32[s, D]`, `%i: i32[s, k]` and weights.
fn lowered(params: &str, weights: &[Given], body: &str) -> Result<(), LowerError> {
    let result = body.rsplit_once("return %").unwrap().1;
    let ty = body.split_once(&format!("%{result} = ")).unwrap().1;
    let ty = ty.split_once(" : ").unwrap().1.lines().next().unwrap();
    let list =
        |item: &dyn Fn(&Given) -> String| -> Vec<String> { weights.iter().map(item).collect() };
    let given = list(&|(name, ty, _)| format!("weight %{name}: {ty}")).join(", ");
    let bound = list(&|(name, ..)| format!("@{name}")).join(", ");
    let stored = list(&|(name, ty, dims)| {
        let dtype = ty.split('[').next().unwrap();
        // Every element is one stored number, whatever the extents.
        let strides = vec!["0"; dims.len()].join(", ");
        format!(
            "  weight @{name}: {dtype}{dims:?} = tensor {name} of [1] at 0 strides [{strides}]\n"
        )
    });
    let text = format!(
        "graph @block(%x: f32[s, D], %i: i32[s, k], {given}) -> {ty}
  params {params}
  where 1 <= s <= 8 {{
{body}
}}

program @one
  where 1 <= s <= 8 {{
{}  entry @forward(%x: f32[s, 64], %i: i32[s, 2]) {{
    %y = call @block(%x, %i, {bound}) on device
    return %y
  }}
}}",
        stored.concat()
    );
    let program = parse_program(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    lower(&program, &Options::default(), &DeviceSpec::default()).map(|_| ())
}

fn refused(params: &str, weights: &[Given], body: &str, found: &str) {
    let error = lowered(params, weights, body).unwrap_err();
    assert_eq!(error.code(), "E0261", "{error}");
    assert!(error.to_string().contains(found), "{error}");
}

#[test]
fn weights_of_absurd_extents_are_refused() {
    const HUGE: i64 = 1 << 40;
    let params = format!("D = 64, c = {HUGE}, k = 2, r = 64");
    let weights: [Given; 2] = [("w", "f32[c]", &[HUGE]), ("v", "f32[r, D]", &[64, 64])];
    let body = "  %a = map { exp(%w) } : f32[c]
  %b = contract %a : f32[]
  %c = contract %v, %b : f32[r, D]
  %y = contract %x, %c : f32[s, r]
  return %y";
    refused(&params, &weights, body, "computed constant");
}

#[test]
fn large_weights_gathered_for_other_than_products_of_rows_are_refused() {
    let params = "D = 64, e = 64, f = 2048, k = 2, r = 64";
    let weights: [Given; 1] = [("w", "f32[e, f, r]", &[64, 2048, 64])];
    let body = "  %rows = gather %w, %i {index = e} : f32[s, k, f, r]
  %y = reduce %rows {op = sum} : f32[s, r]
  return %y";
    refused(params, &weights, body, "at once");
}

#[test]
fn products_of_no_rows_are_refused() {
    let text = "graph @block(%x: f32[D], weight %w: f32[D, r]) -> f32[r]
  params D = 64, r = 8 {
  %y = contract %x, %w : f32[r]
  return %y
}

program @one {
  weight @w: f32[64, 8] = tensor w of [1] at 0 strides [0, 0]
  entry @forward(%x: f32[64]) {
    %y = call @block(%x, @w) on device
    return %y
  }
}";
    let program = parse_program(text).unwrap_or_else(|e| panic!("{e:?}"));
    let error = lower(&program, &Options::default(), &DeviceSpec::default()).unwrap_err();
    assert_eq!(error.code(), "E0260", "{error}");
}

#[test]
fn constants_are_no_results() {
    let (params, weights) = ("D = 64, k = 2, r = 64", [("w", "f32[r]", [64].as_slice())]);
    refused(params, &weights, "  %c = map { 2 * %w } : f32[r]\n  return %c", "a constant");
    // Of rows they are some.
    lowered(params, &weights, "  %c = map { 2 * %w } : f32[s, r]\n  return %c").unwrap();
}

#[test]
fn tables_of_other_counts_are_groups_of_their_own() {
    let params = "D = 64, e = 4, e2 = 5, f = 8, k = 2, r = 64";
    let weights: [Given; 2] =
        [("a", "bf16[e, f, D]", &[4, 8, 64]), ("b", "bf16[e2, r, f]", &[5, 64, 8])];
    let body = "  %wa = gather %a, %i {index = e} : bf16[s, k, f, D]
  %h = contract %x, %wa : f32[s, k, f]
  %wb = gather %b, %i {index = e2} : bf16[s, k, r, f]
  %y = contract %h, %wb : f32[s, r]
  return %y";
    lowered(params, &weights, body).unwrap();
}
