//! Series as tests write them: `metric{a="b"} 1 2+3x4 _ stale {{sum:1 count:2}}`.

use crate::syntax::parse::parse_metric;
use series::histogram::{BucketCount, Histogram, ResetHint};
use series::{Labels, STALE_NAN, parse_float};

/// Values of one series.
const VALUES_MAX: usize = 1_000_000;

#[derive(Clone, Debug)]
pub enum Value {
    Float(f64),
    /// And whether its hint was written.
    Histogram(Histogram, bool),
}

fn fits(out: &[Option<Value>], more: usize) -> Result<(), String> {
    match out.len().saturating_add(more) < VALUES_MAX {
        true => Ok(()),
        false => Err(format!("more than {VALUES_MAX} values of one series")),
    }
}

/// Splits at spaces that are not within braces or brackets.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut depth) = (Vec::new(), String::new(), 0);
    for letter in text.chars() {
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        if letter.is_whitespace() && depth == 0 {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(letter);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The description of a series and its values.
pub fn split_series(line: &str) -> Result<(Labels, &str), String> {
    let (mut depth, mut quote) = (0, None);
    let mut end = line.len();
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(letter),
            (None, '{') => depth += 1,
            (None, '}') => depth -= 1,
            (None, letter) if letter.is_whitespace() && depth == 0 => {
                // Braces may follow the name after a space.
                let rest = line[at..].trim_start();
                if line[..at].ends_with('}') || !rest.starts_with('{') || rest.starts_with("{{") {
                    end = at;
                    break;
                }
            }
            _ => {}
        }
    }
    let labels = parse_metric(&line[..end]).map_err(|error| format!("{}: {error}", &line[..end]))?;
    // A label without a value is none.
    let labels = Labels::from_pairs(labels.iter().filter(|(_, value)| !value.is_empty()));
    Ok((labels, line[end..].trim()))
}

fn float(text: &str) -> Result<f64, String> {
    match text {
        "stale" => Ok(STALE_NAN),
        _ => parse_float(text).map_err(|error| error.to_string()),
    }
}

/// The values of `text`, None where there is no sample.
pub fn values(text: &str) -> Result<Vec<Option<Value>>, String> {
    let mut out = Vec::new();
    for word in words(text) {
        if word.starts_with("{{") {
            histograms(&word, &mut out)?;
            continue;
        }
        // `x` parts value and count; hexadecimal numbers do not occur.
        let (head, times) = match word.rsplit_once('x') {
            Some((head, times)) => {
                (head.to_owned(), Some(times.parse::<usize>().map_err(|error| format!("{word}: {error}"))?))
            }
            None => (word.clone(), None),
        };
        if head == "_" {
            fits(&out, times.unwrap_or(1))?;
            out.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        let Some(times) = times else {
            out.push(Some(Value::Float(float(&head)?)));
            continue;
        };
        // `a+b` or `a-b`: the sign behind the first digit that is no exponent's.
        let bytes = head.as_bytes();
        let sign =
            (1..bytes.len()).find(|at| matches!(bytes[*at], b'+' | b'-') && !matches!(bytes[at - 1], b'e' | b'E'));
        let (start, step) = match sign {
            Some(at) => (float(&head[..at])?, float(head[at..].trim_start_matches('+'))?),
            None => (float(&head)?, 0.0),
        };
        let mut value = start;
        fits(&out, times)?;
        for _ in 0..=times {
            out.push(Some(Value::Float(value)));
            value += step;
        }
    }
    Ok(out)
}

fn histograms(word: &str, out: &mut Vec<Option<Value>>) -> Result<(), String> {
    let end = word.find("}}").ok_or("unclosed histogram")? + 2;
    let (first, hinted) = histogram(&word[..end])?;
    let rest = &word[end..];
    if rest.is_empty() {
        out.push(Some(Value::Histogram(first, hinted)));
        return Ok(());
    }
    let (step, times) = match rest.strip_prefix('x') {
        Some(times) => (None, times),
        None => {
            let sign = if rest.starts_with('-') { -1.0 } else { 1.0 };
            let end = rest.find("}}").ok_or("unclosed histogram")? + 2;
            (Some((histogram(&rest[1..end])?.0, sign)), rest[end..].trim_start_matches('x'))
        }
    };
    let times: usize = times.parse().map_err(|error| format!("{word}: {error}"))?;
    fits(out, times)?;
    let mut now = first;
    for i in 0..=times {
        if let (Some((step, sign)), true) = (&step, i > 0) {
            let hint = now.hint;
            let done = if *sign > 0.0 { now.add(step) } else { now.sub(step) };
            done.map_err(|_| "histograms of different kinds")?;
            now.hint = if step.hint == ResetHint::Gauge { ResetHint::Gauge } else { hint };
        }
        out.push(Some(Value::Histogram(now.clone(), hinted)));
    }
    Ok(())
}

fn histogram(text: &str) -> Result<(Histogram, bool), String> {
    let inner = text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}")).ok_or("no histogram")?;
    let mut histogram = Histogram::default();
    let (mut offsets, mut lists) = ([0, 0], [Vec::new(), Vec::new()]);
    let mut hinted = false;
    for word in words(inner) {
        let (name, value) = word.split_once(':').ok_or_else(|| format!("{word}: no value"))?;
        let list = || -> Result<Vec<f64>, String> {
            let inner = value.strip_prefix('[').and_then(|value| value.strip_suffix(']')).ok_or("no list")?;
            inner.split_whitespace().map(float).collect()
        };
        match name {
            "schema" => histogram.schema = value.parse().map_err(|_| "schema")?,
            "sum" => histogram.sum = float(value)?,
            "count" => histogram.count = float(value)?,
            "z_bucket" => histogram.zero_count = float(value)?,
            "z_bucket_w" => histogram.zero_threshold = float(value)?,
            "buckets" => lists[0] = list()?,
            "n_buckets" => lists[1] = list()?,
            "offset" => offsets[0] = value.parse().map_err(|_| "offset")?,
            "n_offset" => offsets[1] = value.parse().map_err(|_| "offset")?,
            "custom_values" => histogram.custom_values = list()?.into(),
            "counter_reset_hint" => {
                hinted = true;
                histogram.hint = match value {
                    "gauge" => ResetHint::Gauge,
                    "reset" => ResetHint::Reset,
                    "not_reset" => ResetHint::NotReset,
                    "unknown" => ResetHint::Unknown,
                    other => return Err(format!("no hint: {other}")),
                };
            }
            other => return Err(format!("unknown part of a histogram: {other}")),
        }
    }
    let buckets = |list: &[f64], offset: i32| -> Vec<BucketCount> {
        list.iter().enumerate().map(|(i, count)| BucketCount { index: offset + i as i32, count: *count }).collect()
    };
    histogram.positive = buckets(&lists[0], offsets[0]);
    histogram.negative = buckets(&lists[1], offsets[1]);
    histogram.compact();
    Ok((histogram, hinted))
}
