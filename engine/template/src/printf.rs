//! Go's `printf` for the values that templates have: flags, width, precision and the usual verbs.

use crate::value::Value;
use series::Quoted;
use std::fmt::Write;

/// Largest width and precision, in characters.
const WIDTH_MAX: usize = 1000;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

/// Returns the formatted text. Mistakes of the format appear in the text, as they do in Go.
pub fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | '#' | '0' | ' ')) {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                _ => spec.space = true,
            }
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            if chars.next_if_eq(&'*').is_some() {
                let value = match arguments.get(next) {
                    Some(Value::Int(value)) => Some(usize::try_from(*value).unwrap_or(0)),
                    _ => None,
                };
                next += 1;
                return value.map(|value| value.min(WIDTH_MAX));
            }
            let mut value = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).unwrap_or(0) as usize;
                value = Some((value.unwrap_or(0) * 10 + digit).min(WIDTH_MAX));
            }
            value
        };
        spec.width = number(&mut chars).unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars).unwrap_or(0));
        }
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.get(next) {
            None => {
                let _ = write!(out, "%!{verb}(MISSING)");
            }
            Some(value) => pad(&one(&spec, verb, value), &spec, value, &mut out),
        }
        next += 1;
    }
    if next < arguments.len() {
        let extra: Vec<String> =
            arguments[next..].iter().map(|value| format!("{}={}", value.type_name(), value.to_text())).collect();
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

fn pad(text: &str, spec: &Spec, value: &Value, out: &mut String) {
    let missing = spec.width.saturating_sub(text.chars().count());
    let digits = matches!(value, Value::Int(_)) || matches!(value, Value::Float(value) if value.is_finite());
    if spec.minus {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', missing));
    } else if spec.zero && digits {
        let (sign, rest) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        out.push_str(sign);
        out.extend(std::iter::repeat_n('0', missing));
        out.push_str(rest);
    } else {
        out.extend(std::iter::repeat_n(' ', missing));
        out.push_str(text);
    }
}

fn one(spec: &Spec, verb: char, value: &Value) -> String {
    let signed = |text: String| match (text.starts_with('-') || text == "NaN", spec.plus, spec.space) {
        (false, true, _) if !text.starts_with('+') => format!("+{text}"),
        (false, false, true) => format!(" {text}"),
        (_, false, false) if text == "+Inf" => text,
        _ => text,
    };
    match (verb, value) {
        ('v', Value::Float(value)) => signed(match spec.precision {
            Some(precision) => general(*value, precision, false),
            None => Value::Float(*value).to_text(),
        }),
        ('f' | 'F', Value::Float(value)) => signed(fixed(*value, spec.precision.unwrap_or(6))),
        ('e' | 'E', Value::Float(value)) => {
            let text = exponential(*value, spec.precision.unwrap_or(6));
            signed(if verb == 'E' { text.to_uppercase() } else { text })
        }
        ('g' | 'G', Value::Float(value)) => {
            let text = match spec.precision {
                Some(precision) => general(*value, precision, spec.sharp),
                None => Value::Float(*value).to_text(),
            };
            signed(if verb == 'G' { text.to_uppercase() } else { text })
        }
        ('d' | 'v', Value::Int(value)) => signed(value.to_string()),
        ('b', Value::Int(value)) => signed(radix(*value, 2)),
        ('o', Value::Int(value)) => signed(radix(*value, 8)),
        ('x', Value::Int(value)) => signed(radix(*value, 16)),
        ('X', Value::Int(value)) => signed(radix(*value, 16).to_uppercase()),
        ('c', Value::Int(value)) => u32::try_from(*value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').into(),
        ('U', Value::Int(value)) => format!("U+{value:04X}"),
        ('s' | 'v', Value::Text(text)) => truncated(text, spec.precision),
        ('q', Value::Text(text)) => Quoted(&truncated(text, spec.precision)).to_string(),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('t', Value::Bool(value)) => value.to_string(),
        ('T', value) => value.type_name().into(),
        ('v', Value::Nil) => "<nil>".into(),
        ('v', value) => value.to_text(),
        ('s', Value::Time(_) | Value::Duration(_)) => value.to_text(),
        ('s', Value::Labels(_) | Value::Map(_) | Value::List(_)) => value.to_text(),
        (verb, Value::Nil) => format!("%!{verb}(<nil>)"),
        (verb, value) => format!("%!{verb}({}={})", value.type_name(), value.to_text()),
    }
}

fn truncated(text: &str, precision: Option<usize>) -> String {
    text.chars().take(precision.unwrap_or(usize::MAX)).collect()
}

fn radix(value: i64, radix: u64) -> String {
    let mut left = value.unsigned_abs();
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((left % radix) as u32, radix as u32).unwrap_or('0'));
        left /= radix;
        if left == 0 {
            break;
        }
    }
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", digits.into_iter().rev().collect::<String>())
}

fn special(value: f64) -> Option<String> {
    if value.is_nan() {
        return Some("NaN".into());
    }
    value.is_infinite().then(|| if value > 0.0 { "+Inf".into() } else { "-Inf".into() })
}

fn fixed(value: f64, precision: usize) -> String {
    special(value).unwrap_or_else(|| format!("{value:.precision$}"))
}

/// Returns `1.5e+06`: the exponent has a sign and at least two digits.
fn exponential(value: f64, precision: usize) -> String {
    special(value).unwrap_or_else(|| {
        let text = format!("{value:.precision$e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        format!("{digits}e{sign}{exponent:0>2}")
    })
}

/// Returns C's `%g` with `precision` significant digits. Trailing zeros are removed unless `sharp` is set.
pub fn general(value: f64, precision: usize, sharp: bool) -> String {
    if let Some(text) = special(value) {
        return text;
    }
    let precision = precision.max(1);
    let text = exponential(value, precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') && !sharp {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let tail = &text[digits.len()..];
        return format!("{}{tail}", trimmed(digits));
    }
    let fraction = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{value:.fraction$}"))
}
