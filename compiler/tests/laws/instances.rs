//! For each law, graphs that contain its left sides, varied at random.

mod sparse;

use super::draft::{Draft, Made, PLAIN};
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::ValueId;

/// Draws a graph for a law; `None` where the draw does not fit together.
pub fn drawn(law: &str, seed: u64) -> Option<ir::graph::Graph> {
    let mut draft = Draft::new(seed);
    let value = value(&mut draft, law).ok()?;
    draft.returning(value).ok()
}

fn value(d: &mut Draft, law: &str) -> Made {
    match law {
        "associate" => associate(d),
        "one" => one(d),
        "split-through" => split_through(d),
        "slice-product" => viewed_product(d, false),
        "merge-product" => merge_product(d),
        "split-slice" => split_slice(d),
        "merge-split" => merge_split(d),
        "slice-concat" => slice_concat(d),
        "slice-slice" => slice_slice(d),
        "distribute" => distribute(d),
        "add-commute" | "mul-commute" | "add-associate" => commuting(d, law),
        "scale-linear" => scale_linear(d),
        "scale-sum" => scale_sum(d),
        "history-inward" => history_inward(d),
        "gather-through" => gather_through(d),
        "sparse-product" => sparse::sparse_product(d),
        "sparse-multiple" => sparse::sparse_multiple(d),
        "sparse-softmax" => sparse::sparse_softmax(d),
        "fold-chosen" => sparse::fold_chosen(d),
        "gather-scatter" => sparse::gather_scatter(d),
        "join-sum" => sparse::join_sum(d),
        "join-through" => sparse::join_through(d),
        "join-scatter" => sparse::join_scatter(d),
        other => panic!("no instances are drawn for the law {other}"),
    }
}

fn union<'a>(x: &[&'a str], y: &[&'a str]) -> Vec<&'a str> {
    let more = y.iter().filter(|a| !x.contains(a));
    x.iter().chain(more).copied().collect()
}

fn associate(d: &mut Draft) -> Made {
    let pool = d.rng.some(&PLAIN, 3, 4);
    let [a, b, c] = [1, 1, 0].map(|least| d.rng.some(&pool, least, 3));
    let ab = union(&a, &b);
    let r = d.rng.some(&ab, 0, 3);
    let rc = union(&r, &c);
    let s = d.rng.some(&rc, 0, 4);
    let first = if d.rng.chance(50) { Some(d.value(&c)?) } else { None };
    let [x, y] = d.pair(&a, &b)?;
    let inner = d.product(x, y, &r)?;
    let z = match first {
        Some(z) => z,
        None => d.value(&c)?,
    };
    d.product(inner, z, &s)
}

fn one(d: &mut Draft) -> Made {
    let axes = d.rng.some(&PLAIN, 0, 4);
    let part = d.rng.some(&axes, 0, 2);
    if d.rng.chance(50) {
        let ones = d.ones(&part)?;
        let x = d.value(&axes)?;
        return d.product(x, ones, &axes);
    }
    let x = d.value(&axes)?;
    let ones = d.ones(&part)?;
    d.product(x, ones, &axes)
}

/// Axes of two factors and of their product, `axis` in one or both and in the product.
fn factors<'a>(d: &mut Draft, axis: &'a str, pool: &[&'a str]) -> [Vec<&'a str>; 3] {
    let mut x = d.rng.some(pool, 0, 2);
    let mut y = d.rng.some(pool, 0, 2);
    x.push(axis);
    if d.rng.chance(40) {
        y.push(axis);
    }
    let all = union(&x, &y);
    let mut kept = d.rng.some(&all, 0, 4);
    kept.retain(|a| *a != axis);
    kept.push(axis);
    [x, y, d.rng.shuffled(&kept)]
}

fn viewed_product(d: &mut Draft, split: bool) -> Made {
    // Names of the view's new axes may be summed within: they are others.
    let (axis, pool) =
        if split { ("pq", ["a", "b", "p", "s"]) } else { ("ag", ["a", "b", "c", "s"]) };
    let [x, y, kept] = factors(d, axis, &pool);
    let [a, b] = d.pair(&x, &y)?;
    let product = d.product(a, b, &kept)?;
    match (split, d.rng.below(3)) {
        (true, 0) => d.b.split(product, "pq", &["q2", "p2"]),
        (true, _) => d.b.split(product, "pq", &["p", "q"]),
        (false, 0) => d.b.slice(product, "ag", "a", 0),
        (false, 1) => d.b.slice(product, "ag", "g", d.extent("a")),
        (false, _) => d.b.slice(product, "ag", "a2", d.extent("g")),
    }
}

fn split_through(d: &mut Draft) -> Made {
    if d.rng.chance(25) {
        return viewed_product(d, true);
    }
    let rest = d.rng.some(&["a", "b", "s"], 0, 2);
    let all = union(&["pq"], &rest);
    let x = elementwise(d, "pq", &rest)?;
    // Another axis at times: that of no operand, or one that the op names.
    let x = if d.rng.chance(10) { d.map("%x", &[x], &union(&all, &["c"]))? } else { x };
    let into = d.rng.pick(&[["p", "q"], ["q2", "p2"]]);
    d.b.split(x, "pq", &into)
}

/// A function of single elements of values that have `axis`, or lack it but for one.
fn elementwise(d: &mut Draft, axis: &str, rest: &[&str]) -> Made {
    let all = union(&[axis], rest);
    let texts = ["%x + %y", "%x * %y", "sigmoid(%x)", "%x * sigmoid(%y)", "%x * tanh(%y) + %z"];
    if d.rng.chance(20) {
        let (x, y) = (d.input(&all), d.input(&all));
        let [x, y] = [d.map("tanh(%x)", &[x], &all)?, d.map("tanh(%x)", &[y], &all)?];
        return d.b.swiglu(x, y);
    }
    let text = d.rng.pick(&texts);
    let used = ["%x", "%y", "%z"].into_iter().filter(|name| text.contains(name)).count();
    let lacks = text.contains('(') && d.rng.chance(40);
    let [x, y] = d.pair(&all, if lacks { rest } else { &all })?;
    let z = d.value(&all)?;
    d.map(text, &[x, y, z][..used], &all)
}

fn merge_product(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["a", "b", "s"], 0, 2);
    let x = union(&["p", "q"], &rest);
    let mut y = d.rng.some(&["a", "b", "c", "p", "s"], 0, 2);
    y.push("pq");
    let order = d.rng.chance(50);
    let early = if order { Some(d.value(&y)?) } else { None };
    let x = d.value(&x)?;
    let parts = if d.rng.chance(70) { ["p", "q"] } else { ["q", "p"] };
    let merged = d.b.merge(x, &parts, "pq")?;
    let y_axes = y;
    let y = match early {
        Some(y) => y,
        None => d.value(&y_axes)?,
    };
    let mut all = union(&rest, &y_axes);
    // Kept at times, where the law does not hold.
    if d.rng.chance(90) {
        all.retain(|a| *a != "pq");
    }
    let kept = d.rng.some(&all, 0, 4);
    d.product(merged, y, &kept)
}

fn split_slice(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let axes = union(&["pq", "ag"], &rest);
    let x = d.value(&axes)?;
    let part = match d.rng.below(2) {
        0 => d.b.slice(x, "ag", "a", 0)?,
        _ => d.b.slice(x, "ag", "g", d.extent("a"))?,
    };
    d.b.split(part, "pq", &["p", "q"])
}

fn merge_split(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let flipped = d.rng.chance(15);
    if d.rng.chance(50) {
        let x = d.value(&union(&["pq"], &rest))?;
        let split = d.b.split(x, "pq", &["p", "q"])?;
        let parts = if flipped { ["q", "p"] } else { ["p", "q"] };
        let into = d.rng.pick(&["pq", "pq2"]);
        return d.b.merge(split, &parts, into);
    }
    let x = d.value(&union(&["p", "q"], &rest))?;
    let merged = d.b.merge(x, &["p", "q"], "pq")?;
    let names = [["p", "q"], ["p2", "q2"], ["p2", "q"]];
    let parts = if flipped { ["q", "p"] } else { d.rng.pick(&names) };
    d.b.split(merged, "pq", &parts)
}

fn slice_concat(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let [x, y] = d.pair(&union(&["a"], &rest), &union(&["g"], &rest))?;
    let [x, y] = wide(d, [x, y], &rest)?;
    let whole = d.b.concat(&[(x, "a"), (y, "g")], "ag")?;
    match d.rng.below(5) {
        0 => d.b.slice(whole, "ag", "a", 0),
        1 => d.b.slice(whole, "ag", "a2", 0),
        2 => d.b.slice(whole, "ag", "g2", d.extent("a")),
        3 => d.b.slice(whole, "ag", "a", 1),
        _ => d.b.slice(whole, "ag", "g", d.extent("a")),
    }
}

/// Two values in f32 and in one order, to be concatenated.
fn wide(d: &mut Draft, [x, y]: [ValueId; 2], rest: &[&str]) -> Result<[ValueId; 2], IrError> {
    let order = d.rng.shuffled(rest);
    let along = |d: &Draft, v: ValueId| {
        d.axes(v).into_iter().find(|a| !rest.contains(&a.as_str())).expect("an axis of its own")
    };
    let mut made = vec![];
    for v in [x, y] {
        let axis = along(d, v);
        let axes: Vec<&str> = [axis.as_str()].into_iter().chain(order.iter().copied()).collect();
        made.push(match d.axes(v) == axes && d.b.ty(v).dtype() == DType::F32 {
            true => v,
            false => d.b.map("tanh(%x)", &[("x", v)], &axes)?,
        });
    }
    Ok([made[0], made[1]])
}

fn slice_slice(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let x = d.value(&union(&["agb"], &rest))?;
    let [outer, first] = match d.rng.below(2) {
        0 => [d.extent("b"), d.extent("a")],
        _ => [0.into(), 0.into()],
    };
    let part = d.b.slice(x, "agb", "ag", outer)?;
    let other = d.rng.chance(30);
    match (other, first == 0.into()) {
        // A slice of another axis, where the law does not hold.
        (true, _) => {
            let split = d.value(&["ag", "pq"])?;
            let part = d.b.slice(split, "ag", "a", 0)?;
            d.b.slice(part, "pq", "p", 0)
        }
        (false, true) => d.b.slice(part, "ag", "a", 0),
        (false, false) => d.b.slice(part, "ag", "g", first),
    }
}

/// Products of one factor with two constants, one after the other.
fn products_in_turn(d: &mut Draft) -> Made {
    let pool = ["b", "c", "s"];
    let shared = d.rng.some(&pool, 1, 3);
    let rest = d.rng.some(&["b", "c", "d"], 0, 2);
    let all = union(&shared, &rest);
    let kept = d.rng.some(&all, 0, 2);
    // Factors stand in the order in which they are made.
    let early = [d.rng.chance(50), d.rng.chance(50)];
    let sides = ["a", "g"].map(|axis| union(&[axis], &rest));
    let mut weights = [0, 1].map(|k| early[k].then(|| d.constant(&sides[k])));
    let x = if d.rng.chance(50) { d.constant(&shared) } else { d.value(&shared)? };
    let mut parts = vec![];
    for (k, axis) in ["a", "g"].into_iter().enumerate() {
        let w = weights[k].take().unwrap_or_else(|| d.constant(&sides[k]));
        // Of another factor at times, where the law does not hold.
        let x = if d.rng.chance(90) { x } else { d.value(&shared)? };
        let product = d.product(x, w, &union(&[axis], &kept))?;
        parts.push((product, axis));
    }
    d.b.concat(&parts, "ag")
}

fn distribute(d: &mut Draft) -> Made {
    let pool = ["b", "c", "s"];
    let [left, right] = [0, 1].map(|_| d.rng.some(&pool, 0, 2));
    let mut sides = vec![];
    for rest in [&left, &right] {
        let [x, y] = d.pair(&union(&["a"], rest), &union(&["g"], rest))?;
        let [x, y] = wide(d, [x, y], rest)?;
        // Cut elsewhere at times, where the law does not hold.
        let parts = if d.rng.chance(90) { [(x, "a"), (y, "g")] } else { [(y, "g"), (x, "a")] };
        sides.push(d.b.concat(&parts, "ag")?);
    }
    let all = union(&left, &right);
    let kept = d.rng.some(&all, 0, 3);
    d.product(sides[0], sides[1], &kept)
}

fn commuting(d: &mut Draft, law: &str) -> Made {
    let axes = d.rng.some(&PLAIN, 0, 3);
    let [x, y] = d.pair(&axes, &axes)?;
    match law {
        "add-commute" => d.map("%x + %y", &[x, y], &axes),
        "mul-commute" => d.map("%x * %y", &[x, y], &axes),
        _ => {
            let part = d.rng.some(&axes, axes.len().saturating_sub(1), axes.len());
            let z = d.value(&part)?;
            let sum = d.map("%x + %y", &[y, z], &axes)?;
            d.map("%x + %y", &[x, sum], &axes)
        }
    }
}

/// A number, from the text or of the model.
fn scalar(d: &mut Draft) -> Made {
    match d.rng.below(4) {
        0 => d.b.splat::<&str>(0.375, &[]),
        1 => d.value(&[]),
        _ => Ok(d.weight(&[])),
    }
}

fn scale_linear(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let early = if d.rng.chance(50) { Some(scalar(d)?) } else { None };
    let x = match d.rng.below(4) {
        0 => {
            let held = d.rng.some(&rest, 0, 1);
            let x = if d.rng.chance(50) {
                d.constant(&union(&["a", "z"], &rest))
            } else {
                d.input(&union(&["a", "z"], &rest))
            };
            let table = d.constant(&union(&["a", "z"], &held));
            let order = ["a", "z"];
            let table = d.b.map("tanh(%x)", &[("x", table)], &union(&held, &order))?;
            d.b.rope(x, table, "z")?
        }
        1 => {
            let x = d.value(&union(&["ag"], &rest))?;
            d.b.slice(x, "ag", "g", d.extent("a"))?
        }
        2 => {
            let x = d.value(&union(&["pq"], &rest))?;
            d.b.split(x, "pq", &["p", "q"])?
        }
        _ => {
            let x = d.value(&union(&["p", "q"], &rest))?;
            d.b.merge(x, &["q", "p"], "pq")?
        }
    };
    let c = match early {
        Some(c) => c,
        None => scalar(d)?,
    };
    let axes = d.axes(x);
    d.product(x, c, &Draft::names(&axes))
}

fn scale_sum(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["c", "d", "s"], 0, 2);
    let early = if d.rng.chance(50) { Some(scalar(d)?) } else { None };
    let x = match d.rng.chance(50) {
        true => {
            let [x, y] = d.pair(&rest, &rest)?;
            d.map("%x + %y", &[x, y], &rest)?
        }
        false => {
            let [x, y] = d.pair(&union(&["a"], &rest), &union(&["g"], &rest))?;
            let [x, y] = wide(d, [x, y], &rest)?;
            d.b.concat(&[(x, "a"), (y, "g")], "ag")?
        }
    };
    let c = match early {
        Some(c) => c,
        None => scalar(d)?,
    };
    let axes = d.axes(x);
    d.product(x, c, &Draft::names(&axes))
}

/// Any op of rows of `row`, on values with or without it.
fn pointwise(d: &mut Draft, row: &str) -> Made {
    let rest = d.rng.some(&["b", "c", "d"], 0, 2);
    let all = union(&[row], &rest);
    let part = |d: &mut Draft| -> Vec<String> {
        let some = d.rng.some(&all, 0, all.len());
        let axes = if d.rng.chance(75) { union(&[row], &some) } else { some };
        axes.into_iter().map(String::from).collect()
    };
    let of = |d: &mut Draft, extra: &[&str]| {
        let axes = union(&all, extra);
        d.value(&axes)
    };
    match d.rng.below(13) {
        0 | 1 => {
            let [x, y, kept] = factors(d, row, &["b", "c", "d"]);
            let [x, y] = d.pair(&x, &y)?;
            d.product(x, y, &kept)
        }
        n @ (2 | 3) => {
            let [x, y] = d.pair(&all, &all)?;
            d.map(if n == 2 { "%x + %y" } else { "%x * %y" }, &[x, y], &all)
        }
        4 => {
            let x = part(d);
            let x = d.value(&Draft::names(&x))?;
            d.map("sigmoid(%x)", &[x], &all)
        }
        5 => {
            let (x, y) = (part(d), part(d));
            let [x, y] = d.pair(&Draft::names(&x), &Draft::names(&y))?;
            d.map("%x * sigmoid(%y)", &[x, y], &all)
        }
        6 => {
            let (x, y, z) = (part(d), part(d), part(d));
            let [x, y] = d.pair(&Draft::names(&x), &Draft::names(&y))?;
            let z = d.value(&Draft::names(&z))?;
            d.map("%x * sigmoid(%y) + tanh(%z)", &[x, y, z], &all)
        }
        7 => {
            let (x, y) = (d.input(&all), d.input(&all));
            let order = d.rng.shuffled(&all);
            let y = d.map("tanh(%x)", &[y], &order)?;
            let x = d.map("tanh(%x)", &[x], &order)?;
            d.b.swiglu(x, y)
        }
        8 => {
            let axis = d.rng.pick(&union(&["a"], &rest));
            let x = d.value(&union(&all, &[axis]))?;
            let gain = d.weight(&[axis]);
            d.b.rms_norm(x, gain, axis, 1e-6)
        }
        9 => {
            let x = of(d, &["pq"])?;
            d.b.split(x, "pq", &["p", "q"])
        }
        10 => {
            let x = of(d, &["p", "q"])?;
            d.b.merge(x, &["p", "q"], "pq")
        }
        11 => {
            let x = of(d, &["ag"])?;
            d.b.slice(x, "ag", "g", d.extent("a"))
        }
        _ => {
            let [x, y] = d.pair(&union(&["a"], &all), &union(&["g"], &all))?;
            let [x, y] = wide(d, [x, y], &all)?;
            if d.rng.chance(50) {
                return d.b.concat(&[(x, "a"), (y, "g")], "ag");
            }
            let order: Vec<String> =
                d.axes(x).iter().map(|a| if a == "a" { "b".into() } else { a.clone() }).collect();
            let third = d.input(&Draft::names(&order));
            let third = d.map("tanh(%x)", &[third], &Draft::names(&order))?;
            d.b.concat(&[(x, "a"), (y, "g"), (third, "b")], "agb")
        }
    }
}

fn history_inward(d: &mut Draft) -> Made {
    let x = pointwise(d, "s")?;
    d.b.history(x, "s", "t")
}

fn gather_through(d: &mut Draft) -> Made {
    let x = pointwise(d, "e")?;
    let axes = d.axes(x);
    let shared: Vec<&str> = axes.iter().map(String::as_str).filter(|a| *a != "e").collect();
    let mut batch = d.rng.some(&shared, 0, 1);
    if d.rng.chance(30) {
        batch.push("s");
    }
    let index = d.index(&batch)?;
    d.b.gather(x, index, None, "e")
}
