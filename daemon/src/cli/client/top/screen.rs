//! The screen of `top`: a reading as a page of a terminal.

use super::readings::Readings;
use crate::cli::failure::Failure;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, LineGauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};
use serde_json::Value;

/// Columns and lines of a page that is printed.
const PAGE: (u16, u16) = (80, 24);

/// From this share of a limit on, a bar is red.
const NEARLY: f64 = 0.95;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, readings: &Readings) {
    let rows = [
        Constraint::Length(2),
        Constraint::Length(12),
        Constraint::Min(4),
        Constraint::Length(3),
    ];
    let [head, numbers, speed, refused] = Layout::vertical(rows).areas(frame.area());
    let halves = [Constraint::Fill(1), Constraint::Fill(1)];
    let [memory, rest] = Layout::horizontal(halves).areas(numbers);
    let thirds = [Constraint::Length(4); 3];
    let [pages, requests, machine] = Layout::vertical(thirds).areas(rest);
    frame.render_widget(Paragraph::new(title(readings)), head);
    let metrics = &readings.metrics;
    draw_memory(frame, memory, readings);
    draw_pages(frame, pages, &metrics["kv"]);
    let lines = [
        format!(
            "{} running, {} queued, {} parked",
            number(&metrics["running"]),
            number(&metrics["queued"]),
            number(&metrics["parked"])
        ),
        format!(
            "{} sessions, {} finished",
            number(&metrics["sessions"]),
            number(&metrics["finished"])
        ),
    ];
    draw_lines(frame, requests, "Requests", lines);
    draw_lines(frame, machine, "Board", board(metrics));
    draw_speed(frame, speed, readings);
    draw_lines(frame, refused, "Refused", [refusals(&metrics["refused"])]);
}

/// One page as text.
pub(super) fn text(readings: &Readings) -> Result<String, Failure> {
    let failed = |error| Failure::Run(format!("cannot draw the page: {error}"));
    let mut terminal = Terminal::new(TestBackend::new(PAGE.0, PAGE.1)).map_err(failed)?;
    terminal
        .draw(|frame| draw(frame, readings))
        .map_err(failed)?;
    let buffer = terminal.backend().buffer();
    let row = |y| {
        let cells = (0..PAGE.0).map(|x| buffer[(x, y)].symbol());
        let row: String = cells.collect();
        format!("{}\n", row.trim_end())
    };
    Ok((0..PAGE.1).map(row).collect())
}

/// Which daemon it is and how it is, and the model that it serves.
fn title(readings: &Readings) -> Vec<Line<'static>> {
    let (info, model) = (&readings.info, &readings.info["model"]);
    let state = readings.state.as_deref().unwrap_or("unknown");
    let colour = if state == "online" {
        Color::Green
    } else {
        Color::Yellow
    };
    let mut first = vec![readings.node.clone().bold(), "  ".into()];
    if let Some(why) = &readings.trouble {
        first.push(why.clone().red());
    } else {
        first.push(state.to_owned().fg(colour));
        let up = readings.metrics["uptime_s"].as_u64();
        first.extend(up.map(|up| format!("  up {}", duration(up)).into()));
    }
    let second = if model.is_null() {
        "no model yet".to_owned()
    } else {
        format!(
            "{} {}, context {}",
            model["name"].as_str().unwrap_or("?"),
            model["quantisation"].as_str().unwrap_or(""),
            number(&info["context"])
        )
    };
    vec![Line::from(first), Line::from(second)]
}

fn draw_memory(frame: &mut Frame<'_>, area: Rect, readings: &Readings) {
    let bytes = &readings.metrics["bytes"];
    let block = Block::bordered().title("Memory");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let rows = [Constraint::Length(1), Constraint::Min(0)];
    let [bar, lines] = Layout::vertical(rows).areas(inside);
    draw_bar(frame, bar, ratio(&bytes["resident"], &bytes["budget"]));
    let mut text = vec![
        Line::from(format!(
            "{} resident of {}",
            size(&bytes["resident"]),
            size(&bytes["budget"])
        )),
        Line::from(format!(
            "{} at most, {} planned",
            size(&bytes["peak"]),
            size(&readings.info["memory"]["total"])
        )),
    ];
    let plan = readings.info["memory"].as_object();
    let plan = plan.into_iter().flatten();
    let plan = plan.filter(|(name, _)| !["total", "budget"].contains(&name.as_str()));
    text.extend(plan.map(|(name, bytes)| {
        let name = name.replace('_', " ");
        Line::from(format!("{:>11} {name}", size(bytes))).dim()
    }));
    frame.render_widget(Paragraph::new(text), lines);
}

fn draw_pages(frame: &mut Frame<'_>, area: Rect, kv: &Value) {
    let block = Block::bordered().title("Pages of keys and values");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let rows = [Constraint::Length(1); 2];
    let [bar, line] = Layout::vertical(rows).areas(inside);
    draw_bar(frame, bar, ratio(&kv["pages_used"], &kv["pages_total"]));
    let text = format!(
        "{} used, {} shared, {} free",
        number(&kv["pages_used"]),
        number(&kv["pages_shared"]),
        number(&kv["pages_free"])
    );
    frame.render_widget(Paragraph::new(text), line);
}

fn draw_bar(frame: &mut Frame<'_>, area: Rect, ratio: f64) {
    let colour = if ratio < NEARLY {
        Color::Green
    } else {
        Color::Red
    };
    let label = format!("{:>3.0} %", ratio * 100.0);
    let bar = LineGauge::default()
        .ratio(ratio)
        .label(label)
        .filled_style(Style::new().fg(colour))
        .unfilled_style(Style::new().dim())
        .filled_symbol("█")
        .unfilled_symbol("░");
    frame.render_widget(bar, area);
}

fn draw_speed(frame: &mut Frame<'_>, area: Rect, readings: &Readings) {
    let now = &readings.metrics["tokens_per_second"];
    let now = now.as_f64().unwrap_or_default();
    let most = readings.speeds.iter().max().copied().unwrap_or_default();
    let title = format!(
        "Tokens per second: {now:.1}, most {:.1}",
        most as f64 / 10.0
    );
    let block = Block::bordered().title(title);
    let columns = usize::from(block.inner(area).width);
    let shown = readings.speeds.len().saturating_sub(columns);
    let bars = Sparkline::default()
        .block(block)
        .style(Style::new().fg(Color::Cyan))
        .data(readings.speeds.iter().skip(shown).copied());
    frame.render_widget(bars, area);
}

fn draw_lines<const N: usize>(frame: &mut Frame<'_>, area: Rect, title: &str, lines: [String; N]) {
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    let block = Block::bordered().title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// How warm it is, and what it does about it.
fn board(metrics: &Value) -> [String; 2] {
    let temperature = match metrics["temperature_c"].as_f64() {
        Some(degrees) => format!("{degrees:.1} °C"),
        None => "no sensor".to_owned(),
    };
    let throttle = &metrics["throttle"];
    let rung = |name: &str| throttle[name].as_u64().unwrap_or_default();
    let strain = match (rung("heat"), rung("pressure")) {
        (0, 0) => "at full speed".to_owned(),
        (heat, pressure) => format!("slowed: heat {heat}, pressure {pressure}"),
    };
    let stalled = match metrics["stalled_s"].as_u64() {
        None | Some(0) => String::new(),
        Some(seconds) => format!("stands still for {}", duration(seconds)),
    };
    [format!("{temperature}, {strain}"), stalled]
}

/// How often it was refused, by code, the most frequent first.
fn refusals(refused: &Value) -> String {
    let mut all: Vec<(u64, &String)> = refused
        .as_object()
        .into_iter()
        .flatten()
        .map(|(code, times)| (times.as_u64().unwrap_or_default(), code))
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    let all: Vec<String> = all.iter().map(|(n, code)| format!("{code} {n}")).collect();
    if all.is_empty() {
        "nothing".to_owned()
    } else {
        all.join(", ")
    }
}

/// A share of a limit, from 0 to 1; 0 where one of them is not known.
fn ratio(part: &Value, whole: &Value) -> f64 {
    match (part.as_f64(), whole.as_f64()) {
        (Some(part), Some(whole)) if whole > 0.0 => (part / whole).clamp(0.0, 1.0),
        _ => 0.0,
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("?".to_owned(), |n| n.to_string())
}

fn size(bytes: &Value) -> String {
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    bytes.as_f64().map_or("?".to_owned(), mib)
}

fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (48.., _) => format!("{} d {} h", hours / 24, hours % 24),
        (1.., _) => format!("{hours} h {} min", minutes % 60),
        (0, 1..) => format!("{minutes} min {} s", seconds % 60),
        (0, 0) => format!("{seconds} s"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::wire::topics::Topics;
    use serde_json::json;

    fn page(publications: &[(&str, Value)]) -> String {
        let mut readings = Readings::new("kitchen", Topics::new("glowplug", "kitchen"));
        for (topic, payload) in publications {
            readings.take(
                &format!("glowplug/kitchen/{topic}"),
                payload.to_string().as_bytes(),
            );
        }
        text(&readings).unwrap()
    }

    /// The page as it is in `page.txt`.
    #[test]
    fn a_page_has_all_numbers() {
        let info = json!({
            "model": { "name": "DeepSeek R1 Distill Qwen 1.5B", "quantisation": "Q4_K_M" },
            "context": 4096,
            "memory": { "weights": 1_117_320_736_u64, "kv_pages": 117_440_512, "scratch": 14_680_064,
                "tokenizer": 45_088_768, "program": 12_582_912, "messages": 25_165_824, "reserve": 26_645_576,
                "total": 1_358_924_392, "budget": 1_468_006_400 },
        });
        let metrics = json!({
            "running": 3, "queued": 2, "parked": 1, "stalled_s": 0, "sessions": 7,
            "tokens_per_second": 12.34,
            "kv": { "pages_total": 128, "pages_used": 96, "pages_free": 32, "pages_shared": 24 },
            "bytes": { "budget": 1_468_006_400, "resident": 1_256_194_048, "peak": 1_290_000_000 },
            "refused": { "overloaded": 4, "rate_limited": 12, "retained": 1 },
            "finished": 420, "temperature_c": 71.5, "throttle": { "heat": 1, "pressure": 0 }, "uptime_s": 7384,
        });
        let mut publications = vec![("status", json!({ "state": "online" })), ("info", info)];
        for n in 0..40 {
            let mut earlier = metrics.clone();
            earlier["tokens_per_second"] = json!((n * 7) % 32);
            publications.push(("metrics", earlier));
        }
        publications.push(("metrics", metrics));
        let page = page(&publications);
        assert_eq!(page, include_str!("page.txt"), "it is now\n{page}");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let page = page(&[]);
        for unknown in [
            "kitchen  unknown",
            "no model yet",
            "? resident of ?",
            "? running",
            "no sensor",
        ] {
            assert!(page.contains(unknown), "{unknown}:\n{page}");
        }
        // a terminal may be of any size
        let readings = Readings::new("n", Topics::new("g", "n"));
        for size in [(1, 1), (5, 3), (20, 10), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
            terminal.draw(|frame| draw(frame, &readings)).unwrap();
        }
    }

    #[test]
    fn times_are_in_the_units_that_matter() {
        for (seconds, said) in [
            (5, "5 s"),
            (65, "1 min 5 s"),
            (3600, "1 h 0 min"),
            (90_061, "25 h 1 min"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(duration(seconds), said);
        }
    }
}
