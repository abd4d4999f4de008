//! The memory of a step: each buffer from the launch that first touches it to the last, where it
//! lies in its arena.

use artifact::plan::{Arg, Bucket, Buffer, Grid, Plan, Step};
use compiler::explain::svg::COLOURS;
use compiler::explain::text::bytes;
use serde::Serialize;
use std::ops::RangeInclusive;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;

/// The arena of a place, drawn by a template.
#[derive(Clone, Debug, Serialize)]
pub struct Arena {
    /// Where it lies.
    pub place: String,
    /// Its size.
    pub bytes: String,
    /// Launches of the step.
    pub launches: usize,
    /// Of the picture: launches from left to right, the first byte at its lower edge.
    pub width: f64,
    /// Of the picture.
    pub height: f64,
    /// Buffers.
    pub buffers: Vec<Area>,
}

/// A buffer.
#[derive(Clone, Debug, Serialize)]
pub struct Area {
    /// Its left edge.
    pub x: f64,
    /// Its upper edge.
    pub y: f64,
    /// Over the launches that need it.
    pub width: f64,
    /// Over its bytes.
    pub height: f64,
    /// One of the palette's colours.
    pub colour: usize,
    /// What is said of it.
    pub title: String,
}

/// The arenas that a step needs, of every place.
pub fn all(plan: &Plan, bucket: &Bucket, symbols: &[i64]) -> Vec<Arena> {
    let lives = lives(bucket);
    let launches = bucket.steps.iter().filter(|s| matches!(s, Step::Launch(_))).count();
    let arena = |(place, size): (usize, &artifact::size::SizeExpr)| {
        let total = size.eval(symbols).filter(|total| *total > 0)? as f64;
        let area = |(at, buffer): (usize, &Buffer)| {
            let life = lives[at].clone().filter(|_| buffer.place as usize == place)?;
            let [offset, size] = [buffer.offset.eval(symbols)?, buffer.bytes.eval(symbols)?];
            let (first, count) = (*life.start() as f64, (life.end() - life.start() + 1) as f64);
            let (across, up) = (WIDTH / launches as f64, HEIGHT / total);
            Some(Area {
                x: first * across,
                y: HEIGHT - (offset + size) as f64 * up,
                width: count * across,
                height: size as f64 * up,
                colour: at % COLOURS,
                title: format!(
                    "{}: {}, launches {} to {}",
                    buffer.name,
                    bytes(size as f64),
                    life.start(),
                    life.end()
                ),
            })
        };
        Some(Arena {
            place: plan.places.get(place).map_or_else(String::new, |p| p.name.clone()),
            bytes: bytes(total),
            launches,
            width: WIDTH,
            height: HEIGHT,
            buffers: bucket.buffers.iter().enumerate().filter_map(area).collect(),
        })
    };
    bucket.arenas.iter().enumerate().filter_map(arena).collect()
}

/// Of each buffer the launches from the first to the last that touches it. A copy counts as part of
/// the launch before it.
fn lives(bucket: &Bucket) -> Vec<Option<RangeInclusive<usize>>> {
    let mut lives: Vec<Option<RangeInclusive<usize>>> = vec![None; bucket.buffers.len()];
    let mut launches = 0usize;
    for step in &bucket.steps {
        let args: Vec<Arg> = match step {
            Step::Barrier => continue,
            Step::Copy { from, to, .. } => vec![*from, *to],
            Step::Launch(launch) => {
                launches += 1;
                let list = match &launch.grid {
                    Grid::List { list, .. } => Some(*list),
                    Grid::Dense(_) => None,
                };
                launch.args.iter().copied().chain(list).collect()
            }
        };
        let now = launches.saturating_sub(1);
        for arg in args {
            if let Arg::Buffer(at) = arg
                && let Some(life) = lives.get_mut(at as usize)
            {
                let first = life.as_ref().map_or(now, |life| *life.start());
                *life = Some(first..=now);
            }
        }
    }
    lives
}
