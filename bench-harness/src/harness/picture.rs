//! The main ratios as a picture: bars on a logarithmic scale that begins at 1, where ringscrape is.
//!
//! Colours follow the reader's light or dark scheme; the background is part of the picture, so that it can be read
//! wherever it is shown.

use std::fmt::Write;

use crate::report::{Metric, metrics};
use crate::results::{Results, Runs};
use crate::statistics::{Spread, digits};

/// What is shown: title and unit of metrics of the report.
const SHOWN: [(&str, &str, &str); 4] = [
    ("CPU", "s per million samples", "CPU time per sample"),
    ("memory (RSS)", "bytes per series", "memory per series"),
    ("written to disk", "bytes per sample", "bytes written per sample"),
    ("answers after kill -9", "s per million stored samples", "restart per stored sample"),
];
const WIDTH: f64 = 760.0;
const LEFT: f64 = 216.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 64.0;
const BAR: f64 = 16.0;
const BAR_STEP: f64 = 21.0;
const GROUP_GAP: f64 = 16.0;
const LEGEND_STEP: f64 = 18.0;
const COLOURS: [&str; 6] = ["#3b7dd8", "#d9822b", "#2f9e6e", "#a259c4", "#c94f4f", "#8a8f98"];

/// One bar.
struct Bar<'a> {
    title: &'a str,
    colour: &'static str,
    ratio: Spread,
}

/// An SVG file.
pub fn svg(results: &Results) -> String {
    let (base_title, groups) = groups(results);
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.ratio.max).fold(2.0, f64::max);
    let least = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.ratio.min).fold(1.0, f64::min);
    let (low, high) = (least.log10().floor().max(-3.0), most.log10() + 0.02);
    let low = if least < 1.0 { low } else { 0.0 };
    let x = |ratio: f64| LEFT + (ratio.max(1e-3).log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let plot = bars as f64 * BAR_STEP + groups.len() as f64 * GROUP_GAP;
    let height = TOP + plot + 30.0 + 2.0 * LEGEND_STEP;

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<style>\n\
         .back {{ fill: #ffffff }} .text {{ fill: #1f2328 }} .quiet {{ fill: #59636e }} .line {{ stroke: #d1d9e0 }} \
         .one {{ stroke: #1f2328 }} .range {{ stroke: #1f2328 }}\n\
         @media (prefers-color-scheme: dark) {{ .back {{ fill: #0d1117 }} .text {{ fill: #f0f6fc }} \
         .quiet {{ fill: #9198a1 }} .line {{ stroke: #3d444d }} .one {{ stroke: #f0f6fc }} .range {{ stroke: #f0f6fc }} }}\n\
         </style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n"
    );
    let heading = format!("How many times as much as {base_title}");
    _ = writeln!(out, "<title>{}</title>", escape(&heading));
    text(&mut out, (20.0, 30.0), "text", "start", " font-size=\"16\" font-weight=\"600\"", &heading);
    let bottom = TOP + plot - GROUP_GAP + 6.0;
    for tick in ticks(low, high) {
        let class = if tick == 1.0 { "one" } else { "line" };
        let at = x(tick);
        _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{bottom:.1}\"/>",
            TOP - 12.0
        );
        text(&mut out, (at, TOP - 16.0), "quiet", "middle", " font-size=\"11\"", &format!("{tick}"));
    }
    let mut y = TOP;
    for (title, bars) in &groups {
        let middle = y + bars.len() as f64 * BAR_STEP / 2.0 + 2.0;
        text(&mut out, (LEFT - 14.0, middle), "text", "end", "", title);
        for bar in bars {
            let (from, to) = (x(1.0_f64.min(bar.ratio.median)), x(1.0_f64.max(bar.ratio.median)));
            let (width, colour) = ((to - from).max(1.0), bar.colour);
            _ = writeln!(
                out,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"><title>{}: {}</title></rect>",
                escape(bar.title),
                digits(bar.ratio.median),
            );
            let (least, most, centre) = (x(bar.ratio.min), x(bar.ratio.max), y + BAR / 2.0);
            if bar.ratio.min < bar.ratio.max {
                _ = writeln!(
                    out,
                    "<line class=\"range\" x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{centre:.1}\" y2=\"{centre:.1}\"/>"
                );
            }
            let at = (to.max(most) + 6.0, y + BAR - 4.0);
            text(&mut out, at, "text", "start", "", &digits(bar.ratio.median));
            y += BAR_STEP;
        }
        y += GROUP_GAP;
    }
    legend(&mut out, results, &base_title, bottom + 24.0);
    text(&mut out, (20.0, height - 10.0), "quiet", "start", " font-size=\"11\"", &caption(results));
    out.push_str("</svg>\n");
    out
}

fn groups(results: &Results) -> (String, Vec<(&'static str, Vec<Bar<'_>>)>) {
    let Some(base) = results.base() else { return (String::new(), Vec::new()) };
    let metrics = metrics(results);
    let find = |title: &str, unit: &str| metrics.iter().find(|metric| metric.title == title && metric.unit == unit);
    let bars = |metric: &Metric| -> Vec<Bar<'_>> {
        let below = metric.values(base);
        let bar = |(runs, colour)| {
            let runs: &Runs = runs;
            let ratio = Spread::of_ratios(&metric.values(runs), &below)?;
            (ratio.min > 0.0).then_some(Bar { title: runs.title.as_str(), colour, ratio })
        };
        others(results).filter_map(bar).collect()
    };
    let group = |&(title, unit, shown): &(&str, &str, &'static str)| Some((shown, bars(find(title, unit)?)));
    let groups = SHOWN.iter().filter_map(group).filter(|(_, bars)| !bars.is_empty()).collect();
    (base.title.clone(), groups)
}

/// All but the base, each with its colour.
fn others(results: &Results) -> impl Iterator<Item = (&Runs, &'static str)> {
    let others = results.contenders.iter().filter(|runs| runs.name != results.base);
    others.zip(COLOURS.into_iter().cycle())
}

fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.floor() as i32)..=(high.ceil() as i32);
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    let inside = |tick: &f64| (low - 1e-9..=high + 1e-9).contains(&tick.log10());
    // 0.1 times 2 is not quite 0.2, which would be printed in full.
    all.filter(inside).map(|tick| (tick * 1e6).round() / 1e6).collect()
}

fn legend(out: &mut String, results: &Results, base_title: &str, y: f64) {
    let mut x = 20.0;
    for (runs, colour) in others(results) {
        let y_box = y - 10.0;
        _ = writeln!(out, "<rect x=\"{x:.1}\" y=\"{y_box:.1}\" width=\"11\" height=\"11\" fill=\"{colour}\"/>");
        text(out, (x + 16.0, y), "text", "start", " font-size=\"12\"", &runs.title);
        x += 34.0 + 6.8 * runs.title.chars().count() as f64;
    }
    text(out, (x, y), "quiet", "start", " font-size=\"12\"", &format!("(1 = {base_title})"));
}

fn caption(results: &Results) -> String {
    let scenario = &results.scenario;
    format!(
        "{}, {} targets every {} s, {} of {} s; {}, {} cores",
        results.date,
        scenario.targets,
        scenario.interval_s,
        crate::statistics::count_of(scenario.rounds),
        scenario.duration_s,
        results.machine.cpu_model,
        results.machine.cores,
    )
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, more: &str, text: &str) {
    let text = escape(text);
    _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{text}</text>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn bars_are_labelled_with_their_ratio() {
        let picture = svg(&example());
        for part in [
            "How many times as much as Ours",
            "CPU time per sample",
            "Theirs &amp; more: 10.0",
            "prefers-color-scheme: dark",
            "2026-11-25, 1000 targets every 5 s, 2 rounds of 60 s; Test CPU, 2 cores",
        ] {
            assert!(picture.contains(part), "no {part} in {picture}");
        }
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }

    #[test]
    fn a_picture_of_nothing_is_still_one() {
        let mut results = example();
        results.contenders.clear();
        assert!(svg(&results).ends_with("</svg>\n"));
    }

    #[track_caller]
    fn check(low: f64, high: f64, want: &[f64]) {
        assert_eq!(ticks(low, high), want);
    }

    #[test]
    fn ticks_of_the_scale() {
        check(0.0, 1.4, &[1.0, 2.0, 5.0, 10.0, 20.0]);
        check(-1.0, 0.35, &[0.1, 0.2, 0.5, 1.0, 2.0]);
    }
}
