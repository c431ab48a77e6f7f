//! Plots as SVG, by hand: bars, and lines over a logarithmic axis.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::report::{Row, in_digits};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 6] = ["#1f6f8b", "#d1603d", "#6a994e", "#7b5ea7", "#b08900", "#555555"];

/// Lines or groups of bars: a name, and a value for each place on the horizontal axis, where there is one.
struct Series {
    name: String,
    values: Vec<Option<f64>>,
}

/// All plots that the rows have something for.
pub fn draw(rows: &[Row], directory: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(directory)?;
    let find = |suite: &str, case: &str, metric: &str| {
        rows.iter().find(|row| row.key() == (suite, case, metric)).map(|row| row.value)
    };
    let sizes = ["1K", "1M", "10M", "64M"];
    let over_sizes = |name: &str, suite: &str, case: &dyn Fn(&str) -> String, metric: &str| Series {
        name: name.to_owned(),
        values: sizes.iter().map(|size| find(suite, &case(size), metric)).collect(),
    };
    let decide = |name: &str, family: &str, suffix: &str, metric: &str| {
        over_sizes(name, "decide", &|size| format!("{family}/{size}{suffix}"), metric)
    };
    let table = |metric: &str| {
        let full = format!("{metric}_cycles_p10");
        [
            over_sizes(&format!("drover {metric}"), "table", &|size| size.to_owned(), &full),
            over_sizes(&format!("rte_hash {metric}"), "table", &|size| format!("rte_hash/{size}"), &full),
        ]
    };
    let forward = |name: &str, prefix: &str| {
        over_sizes(name, "forward", &|size| format!("{prefix}net_null/{size}"), "cycles_p10")
    };
    let plots = [
        (
            "decide.svg",
            "The decision, cycles a packet",
            vec![
                decide("IPv4, p10", "dr4", "", "cycles_p10"),
                decide("IPv4, p50", "dr4", "", "cycles_p50"),
                decide("IPv4, Zipf, p10", "dr4", "/zipf", "cycles_p10"),
                decide("IPv6, p10", "dr6", "", "cycles_p10"),
            ],
        ),
        (
            "table.svg",
            "Tables, cycles a key, p10",
            [table("hit"), table("miss"), table("insert")].into_iter().flatten().collect(),
        ),
        (
            "forward.svg",
            "A worker over net_null, cycles a packet, p10",
            vec![forward("forward", ""), forward("MAC write only", "mac_write/"), forward("I/O only", "io_only/")],
        ),
    ];
    let mut drawn = Vec::new();
    for (file, title, series) in plots {
        let series: Vec<Series> = series.into_iter().filter(|one| one.values.iter().any(Option::is_some)).collect();
        if !series.is_empty() {
            fs::write(directory.join(file), lines(title, &sizes, &series))?;
            drawn.push(file.to_owned());
        }
    }
    Ok(drawn)
}

fn lines(title: &str, places: &[&str], series: &[Series]) -> String {
    let highest = series.iter().flat_map(|one| one.values.iter().flatten()).fold(1.0f64, |a, b| a.max(*b));
    let step = nice_step(highest / 6.0);
    let top = (highest / step).ceil() * step;
    let x = |place: usize| LEFT + (WIDTH - LEFT - RIGHT) * (place as f64 + 0.5) / places.len() as f64;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let mut svg = head(title);
    let mut value = 0.0;
    while value <= top + step / 2.0 {
        let (y, right) = (y(value), WIDTH - RIGHT);
        let _ = writeln!(svg, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#dddddd"/>"##);
        text(&mut svg, LEFT - 8.0, y + 4.0, "end", &in_digits(value));
        value += step;
    }
    for (place, name) in places.iter().enumerate() {
        text(&mut svg, x(place), HEIGHT - BOTTOM + 20.0, "middle", name);
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 16.0, "middle", "flows");
    for (number, one) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> =
            one.values.iter().enumerate().filter_map(|(place, value)| Some((x(place), y((*value)?)))).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(svg, r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        for (x, y) in points {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#);
        }
        let (left, line) = (WIDTH - RIGHT + 14.0, TOP + 10.0 + 20.0 * number as f64);
        let _ = writeln!(svg, r#"<rect x="{left}" y="{:.1}" width="12" height="12" fill="{colour}"/>"#, line - 10.0);
        text(&mut svg, left + 18.0, line, "start", &one.name);
    }
    svg + "</svg>\n"
}

fn head(title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let _ = writeln!(svg, r#"<text x="{LEFT}" y="28" font-size="17">{title}</text>"#);
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(svg, r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#333333">{words}</text>"##);
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(power * 10.0)
}
