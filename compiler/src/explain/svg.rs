//! Curves as a picture: one panel for each, both axes logarithmic, readable on light and on dark
//! ground.

use super::curve::{Curve, CurveForm};
use super::memory::bytes_of;
use super::text::time;
use std::fmt::{self, Write};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
/// Height of a panel's title, of its plot, of the axis below, and of a line of its legend.
const TITLE: f64 = 56.0;
const PLOT: f64 = 300.0;
const AXIS: f64 = 56.0;
const LINE: f64 = 20.0;
/// Lines differ by colour and by dashes: both repeat after so many.
pub const COLOURS: usize = 6;

/// Colours of everything below `svg` or `:root` that keep their contrast on the ground of each
/// scheme: `--ground`, `--ink`, `--grid`, and `--c0` to `--c5` for what is told apart.
pub const PALETTE: &str = "
  :root, svg { --ground: #ffffff; --ink: #1a1a1a; --grid: #d5d5d5;
    --c0: #6b6b6b; --c1: #0060a8; --c2: #b34700; --c3: #00734f; --c4: #9c2f78; --c5: #7a5c00 }
  @media (prefers-color-scheme: dark) {
    :root, svg { --ground: #14161a; --ink: #ececec; --grid: #3a3e45;
      --c0: #a8a8a8; --c1: #6cb8f5; --c2: #ff9a5c; --c3: #4fd0a4; --c4: #ee9fd0; --c5: #e6c34f } }
";

/// Lines and words.
const STYLE: &str = "
  .ground { fill: var(--ground) }
  text { fill: var(--ink); font: 13px sans-serif }
  .title { font-size: 15px; font-weight: bold }
  .middle { text-anchor: middle } .end { text-anchor: end }
  .grid { stroke: var(--grid); stroke-width: 1 }
  .switch { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3 }
  .form, .chosen { fill: none; stroke-linejoin: round; stroke-width: 1.5 }
  .chosen { stroke-width: 5; stroke-linecap: round }
  .c0 { stroke: var(--c0); stroke-dasharray: 6 4 } .c1 { stroke: var(--c1) }
  .c2 { stroke: var(--c2); stroke-dasharray: 12 3 }
  .c3 { stroke: var(--c3); stroke-dasharray: 9 3 2 3 }
  .c4 { stroke: var(--c4); stroke-dasharray: 3 2 }
  .c5 { stroke: var(--c5); stroke-dasharray: 15 4 3 4 }
  .chosen { stroke-dasharray: none }
";

/// Draws curves of a model on a device, one below the other.
pub fn draw(device: &str, curves: &[Curve]) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut svg, device, curves);
    svg
}

fn write(out: &mut String, device: &str, curves: &[Curve]) -> fmt::Result {
    let height = curves.iter().map(Panel::height).sum::<f64>();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">"#
    )?;
    writeln!(out, "<title>Time of a step by its new tokens, on {}</title>", escaped(device))?;
    writeln!(out, "<style>{PALETTE}{STYLE}</style>")?;
    writeln!(out, r#"<rect class="ground" width="{WIDTH}" height="{height}"/>"#)?;
    let mut top = 0.0;
    for curve in curves {
        Panel::new(curve, top).write(out, device)?;
        top += Panel::height(curve);
    }
    writeln!(out, "</svg>")
}

/// A name as XML may hold it.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // No XML holds these, escaped or not.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A logarithmic axis: from a value to a place.
pub struct Scale {
    /// The least and the greatest value, both positive.
    pub values: [f64; 2],
    /// Where they lie.
    pub places: [f64; 2],
}

impl Scale {
    /// Where a value lies.
    pub fn at(&self, value: f64) -> f64 {
        let [lo, hi] = self.values.map(f64::ln);
        let part = if hi > lo { (value.ln() - lo) / (hi - lo) } else { 0.5 };
        self.places[0] + part * (self.places[1] - self.places[0])
    }
}

/// One curve where it lies.
struct Panel<'a> {
    curve: &'a Curve,
    top: f64,
    x: Scale,
    y: Scale,
}

impl<'a> Panel<'a> {
    fn height(curve: &Curve) -> f64 {
        TITLE + PLOT + AXIS + LINE * (curve.forms.len() as f64 + 1.0)
    }

    fn new(curve: &'a Curve, top: f64) -> Panel<'a> {
        let all = || curve.forms.iter().flat_map(|form| form.ns.iter().copied());
        let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        let longest = curve.tokens.last().map_or(1.0, |tokens| *tokens as f64);
        let x = Scale { values: [1.0, longest], places: [LEFT, WIDTH - RIGHT] };
        let values = [10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil())];
        let y = Scale { values, places: [top + TITLE + PLOT, top + TITLE] };
        Panel { curve, top, x, y }
    }

    fn write(&self, out: &mut String, device: &str) -> fmt::Result {
        let Curve { block, batch, context, forms, .. } = self.curve;
        let (block, device) = (escaped(block), escaped(device));
        let title = format!("{block} on {device}: batch {batch}, context {context} tokens");
        writeln!(out, r#"<text class="title" x="{LEFT}" y="{}">{title}</text>"#, self.top + 28.0)?;
        self.axes(out)?;
        for (at, form) in forms.iter().enumerate() {
            self.form(out, at, form)?;
        }
        self.switches(out)?;
        self.legend(out)
    }

    fn axes(&self, out: &mut String) -> fmt::Result {
        let [bottom, top] = self.y.places;
        let [left, right] = self.x.places;
        let mut tokens = 1.0;
        while tokens <= self.x.values[1] {
            let x = self.x.at(tokens);
            writeln!(
                out,
                r#"<line class="grid" x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}"/>"#
            )?;
            let y = bottom + 18.0;
            writeln!(out, r#"<text class="middle" x="{x:.1}" y="{y}">{tokens}</text>"#)?;
            tokens *= 4.0;
        }
        let mut ns = self.y.values[0];
        while ns <= self.y.values[1] * 1.001 {
            let (y, label) = (self.y.at(ns), time(ns));
            writeln!(
                out,
                r#"<line class="grid" x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/>"#
            )?;
            let (x, y) = (left - 8.0, y + 4.0);
            writeln!(out, r#"<text class="end" x="{x}" y="{y:.1}">{label}</text>"#)?;
            ns *= 10.0;
        }
        let (x, y) = ((left + right) / 2.0, bottom + 38.0);
        writeln!(out, r#"<text class="middle" x="{x}" y="{y}">new tokens of a sequence</text>"#)?;
        let (x, y) = (18.0, (top + bottom) / 2.0);
        let turn = format!("rotate(-90 {x} {y})");
        writeln!(
            out,
            r#"<text class="middle" x="{x}" y="{y}" transform="{turn}">time of one call</text>"#
        )
    }

    /// A form's line, and over it, broad, the parts where it is chosen.
    fn form(&self, out: &mut String, at: usize, form: &CurveForm) -> fmt::Result {
        let points = self.curve.tokens.iter().zip(&form.ns);
        self.line(out, "form", at, points.clone())?;
        for [first, last] in &form.chosen {
            let within = points.clone().filter(|(tokens, _)| (first..=last).contains(tokens));
            self.line(out, "chosen", at, within)?;
        }
        Ok(())
    }

    fn line<'p>(
        &self,
        out: &mut String,
        class: &str,
        at: usize,
        points: impl Iterator<Item = (&'p i64, &'p f64)>,
    ) -> fmt::Result {
        let place = |(tokens, ns): (&i64, &f64)| {
            format!("{:.1},{:.1}", self.x.at(*tokens as f64), self.y.at(*ns))
        };
        let points: Vec<String> = points.map(place).collect();
        let colour = at % COLOURS;
        writeln!(out, r#"<polyline class="{class} c{colour}" points="{}"/>"#, points.join(" "))
    }

    fn switches(&self, out: &mut String) -> fmt::Result {
        let [bottom, top] = self.y.places;
        for switch in &self.curve.switches {
            let x = self.x.at(switch.tokens as f64);
            writeln!(
                out,
                r#"<line class="switch" x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}"/>"#
            )?;
            let y = top - 6.0;
            writeln!(out, r#"<text class="middle" x="{x:.1}" y="{y}">{}</text>"#, switch.tokens)?;
        }
        Ok(())
    }

    fn legend(&self, out: &mut String) -> fmt::Result {
        let [left, end] = [LEFT, LEFT + 36.0];
        for (at, form) in self.curve.forms.iter().enumerate() {
            let y = self.top + TITLE + PLOT + AXIS + LINE * (at as f64 + 0.5);
            let colour = at % COLOURS;
            writeln!(
                out,
                r#"<line class="form c{colour}" x1="{left}" y1="{y}" x2="{end}" y2="{y}"/>"#
            )?;
            let (x, y, name) = (end + 10.0, y + 4.0, escaped(&form.name));
            let keeps = bytes_of(&form.state);
            let note = if form.chosen.is_empty() { "" } else { ", broad there" };
            writeln!(
                out,
                r#"<text x="{x}" y="{y}">{name}{note} (keeps {keeps} bytes of a token)</text>"#
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("a<b> & \"c\"\u{7}"), "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}");
        let form =
            CurveForm { name: "f & g".into(), state: vec![], chosen: vec![[1, 1]], ns: vec![10.0] };
        let (block, forms) = ("<b>".to_string(), vec![form]);
        let (tokens, switches) = (vec![1], vec![]);
        let svg = draw("d&e", &[Curve { block, batch: 1, context: 1, tokens, forms, switches }]);
        assert!(svg.contains("&lt;b&gt; on d&amp;e: ") && svg.contains("f &amp; g"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn axes_are_logarithmic() {
        let scale = Scale { values: [1.0, 100.0], places: [0.0, 10.0] };
        assert_eq!([1.0, 10.0, 100.0].map(|v| scale.at(v).round()), [0.0, 5.0, 10.0]);
    }
}
