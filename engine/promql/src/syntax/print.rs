//! Expressions as text, for people and for programs.

use crate::syntax::ast::*;
use crate::syntax::error::ParseError;
use crate::syntax::parse::{ParseOptions, parse};
use serde_json::{Value, json};
use series::{MatchOp, Matcher, Quoted, format_float_json, is_legacy_label_name, is_legacy_metric_name};

/// Widest line before an expression is broken up.
const LINE_WIDTH: usize = 100;

/// The query in the canonical form, broken into lines where it is long.
pub fn format(text: &str, options: &ParseOptions) -> Result<String, ParseError> {
    Ok(pretty(&parse(text, options)?, 0))
}

/// Returns the tree of the query in the form of `/api/v1/parse_query`.
pub fn tree(text: &str, options: &ParseOptions) -> Result<Value, ParseError> {
    Ok(node(&parse(text, options)?))
}

fn number(value: f64) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = format_float_json(value, &mut out);
    out
}

/// `1h30m`: the largest units that fit.
pub(crate) fn duration(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}", series::format_duration(ms.unsigned_abs()))
}

fn length(length: &DurationExpr) -> String {
    length.formula.clone().unwrap_or_else(|| duration(length.ms))
}

fn label(name: &str) -> String {
    if is_legacy_label_name(name) { name.to_owned() } else { Quoted(name).to_string() }
}

fn labels(names: &[String]) -> String {
    names.iter().map(|name| label(name)).collect::<Vec<_>>().join(", ")
}

fn suffix(offset: &Option<DurationExpr>, at: &Option<At>) -> String {
    let mut out = String::new();
    match at {
        None => {}
        Some(At::Start) => out += " @ start()",
        Some(At::End) => out += " @ end()",
        Some(At::Ms(ms)) => out += &format!(" @ {:.3}", *ms as f64 / 1000.0),
    }
    if let Some(offset) = offset {
        out += &format!(" offset {}", length(offset));
    }
    out
}

fn selector(selector: &Selector) -> String {
    let own = |matcher: &&Matcher| {
        !(selector.name.is_some() && matcher.name() == series::METRIC_NAME && matcher.op() == MatchOp::Equal)
    };
    let mut inside: Vec<String> = selector.matchers.iter().filter(own).map(Matcher::to_string).collect();
    let mut out = String::new();
    match &selector.name {
        Some(name) if is_legacy_metric_name(name) => out += name,
        Some(name) => inside.insert(0, Quoted(name).to_string()),
        None => {}
    }
    if !inside.is_empty() || out.is_empty() {
        out += &format!("{{{}}}", inside.join(","));
    }
    out
}

fn edges(selector: &Selector) -> &'static str {
    match selector.modifier {
        RangeModifier::Plain => "",
        RangeModifier::Anchored => " anchored",
        RangeModifier::Smoothed => " smoothed",
    }
}

/// The words between an operator and its right side.
fn modifiers(binary: &Binary) -> String {
    let mut out = String::new();
    if binary.is_bool {
        out += " bool";
    }
    let Some(matching) = &binary.matching else { return out };
    if !matching.labels.is_empty() || matching.on {
        out += &format!(" {} ({})", if matching.on { "on" } else { "ignoring" }, labels(&matching.labels));
    }
    let group = match matching.cardinality {
        Cardinality::ManyToOne => "group_left",
        Cardinality::OneToMany => "group_right",
        _ => "",
    };
    if !group.is_empty() {
        if matching.labels.is_empty() && !matching.on {
            out += " ignoring ()";
        }
        out += &format!(" {group} ({})", labels(&matching.include));
    }
    match (matching.fill_left, matching.fill_right) {
        (Some(left), Some(right)) if left == right => out += &format!(" fill ({})", number(left)),
        (left, right) => {
            out += &left.map_or(String::new(), |value| format!(" fill_left ({})", number(value)));
            out += &right.map_or(String::new(), |value| format!(" fill_right ({})", number(value)));
        }
    }
    out
}

fn aggregate_head(aggregate: &Aggregate) -> String {
    let name = aggregate.op.name();
    match (aggregate.without, aggregate.labels.is_empty()) {
        (false, true) => name.to_owned(),
        (true, _) => format!("{name} without ({}) ", labels(&aggregate.labels)),
        (false, false) => format!("{name} by ({}) ", labels(&aggregate.labels)),
    }
}

/// On one line.
pub(crate) fn plain(expr: &Expr) -> String {
    match &expr.kind {
        Kind::Number(value) if value.is_duration && value.value >= 0.0 => duration((value.value * 1000.0) as i64),
        Kind::Number(value) => number(value.value),
        Kind::String(text) => Quoted(text).to_string(),
        Kind::InvalidString(quoted) => quoted.clone(),
        Kind::Vector(vector) => selector(vector) + edges(vector) + &suffix(&vector.offset, &vector.at),
        Kind::Matrix { selector: vector, range } => {
            format!("{}[{}]{}{}", selector(vector), length(range), edges(vector), suffix(&vector.offset, &vector.at))
        }
        Kind::Subquery(subquery) => subquery_text(subquery, plain(&subquery.expr)),
        Kind::Call { function, args } => {
            format!("{}({})", function.name, args.iter().map(plain).collect::<Vec<_>>().join(", "))
        }
        Kind::Negation(inner) => format!("-{}", plain(inner)),
        Kind::Paren(inner) => format!("({})", plain(inner)),
        Kind::Binary(binary) => {
            format!("{} {}{} {}", plain(&binary.left), binary.op.name(), modifiers(binary), plain(&binary.right))
        }
        Kind::Aggregate(aggregate) => {
            let args: Vec<String> = aggregate.parameter.iter().chain([&aggregate.expr]).map(plain).collect();
            format!("{}({})", aggregate_head(aggregate), args.join(", "))
        }
    }
}

impl std::fmt::Display for Expr {
    /// The canonical form on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&plain(self))
    }
}

fn subquery_text(subquery: &Subquery, inner: String) -> String {
    let step = subquery.step.as_ref().map_or(String::new(), length);
    format!("{inner}[{}:{step}]{}", length(&subquery.range), suffix(&subquery.offset, &subquery.at))
}

fn pretty(expr: &Expr, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let line = format!("{indent}{}", plain(expr));
    if line.len() <= LINE_WIDTH {
        return line;
    }
    let list =
        |args: &mut dyn Iterator<Item = &Expr>| args.map(|arg| pretty(arg, depth + 1)).collect::<Vec<_>>().join(",\n");
    match &expr.kind {
        Kind::Call { function, args } => format!("{indent}{}(\n{}\n{indent})", function.name, list(&mut args.iter())),
        Kind::Aggregate(aggregate) => {
            let mut args = aggregate.parameter.iter().chain([&aggregate.expr]);
            format!("{indent}{}(\n{}\n{indent})", aggregate_head(aggregate), list(&mut args))
        }
        Kind::Paren(inner) => format!("{indent}(\n{}\n{indent})", pretty(inner, depth + 1)),
        Kind::Negation(inner) => format!("{indent}-{}", pretty(inner, depth).trim_start()),
        Kind::Subquery(subquery) => subquery_text(subquery, pretty(&subquery.expr, depth)),
        Kind::Binary(binary) => format!(
            "{}\n{indent}{}{}\n{}",
            pretty(&binary.left, depth + 1),
            binary.op.name(),
            modifiers(binary),
            pretty(&binary.right, depth + 1)
        ),
        _ => line,
    }
}

fn matchers(list: &[Matcher]) -> Value {
    let one = |matcher: &Matcher| {
        let op = match matcher.op() {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        json!({"name": matcher.name(), "value": matcher.value(), "type": op})
    };
    list.iter().map(one).collect()
}

fn time(at: &Option<At>) -> (Value, Value) {
    match at {
        None => (Value::Null, Value::Null),
        Some(At::Ms(ms)) => (json!(ms), Value::Null),
        Some(At::Start) => (Value::Null, json!("start")),
        Some(At::End) => (Value::Null, json!("end")),
    }
}

fn node(expr: &Expr) -> Value {
    match &expr.kind {
        Kind::Number(value) => json!({"type": "numberLiteral", "val": number(value.value)}),
        Kind::String(text) | Kind::InvalidString(text) => json!({"type": "stringLiteral", "val": text}),
        Kind::Paren(inner) => json!({"type": "parenExpr", "expr": node(inner)}),
        Kind::Negation(inner) => json!({"type": "unaryExpr", "op": "-", "expr": node(inner)}),
        Kind::Vector(selector) => {
            let (at, edge) = time(&selector.at);
            json!({
                "type": "vectorSelector", "name": selector.name.as_deref().unwrap_or(""),
                "offset": selector.offset.as_ref().map_or(0, |offset| offset.ms),
                "matchers": matchers(&selector.matchers), "timestamp": at, "startOrEnd": edge,
                "anchored": selector.modifier == RangeModifier::Anchored, "smoothed": selector.modifier == RangeModifier::Smoothed,
            })
        }
        Kind::Matrix { selector, range } => {
            let (at, edge) = time(&selector.at);
            json!({
                "type": "matrixSelector", "name": selector.name.as_deref().unwrap_or(""), "range": range.ms,
                "offset": selector.offset.as_ref().map_or(0, |offset| offset.ms),
                "matchers": matchers(&selector.matchers), "timestamp": at, "startOrEnd": edge,
                "anchored": selector.modifier == RangeModifier::Anchored, "smoothed": selector.modifier == RangeModifier::Smoothed,
            })
        }
        Kind::Subquery(subquery) => {
            let (at, edge) = time(&subquery.at);
            json!({
                "type": "subquery", "expr": node(&subquery.expr), "range": subquery.range.ms,
                "offset": subquery.offset.as_ref().map_or(0, |offset| offset.ms),
                "step": subquery.step.as_ref().map_or(0, |step| step.ms), "timestamp": at, "startOrEnd": edge,
            })
        }
        Kind::Call { function, args } => {
            let types: Vec<&str> = function.args.iter().map(|kind| kind.name()).collect();
            let variadic = match function.repeated {
                Some(more) if more > 1000 => -1,
                Some(more) => more as i64,
                None => function.optional as i64,
            };
            json!({
                "type": "call",
                "func": {
                    "name": function.name, "argTypes": types, "variadic": variadic,
                    "returnType": function.returns.name(),
                },
                "args": args.iter().map(node).collect::<Vec<_>>(),
            })
        }
        Kind::Aggregate(aggregate) => json!({
            "type": "aggregation", "op": aggregate.op.name(), "expr": node(&aggregate.expr),
            "param": aggregate.parameter.as_ref().map_or(Value::Null, node), "grouping": aggregate.labels,
            "without": aggregate.without,
        }),
        Kind::Binary(binary) => {
            let matching = binary.matching.as_ref().map_or(Value::Null, |matching| {
                json!({
                    "card": matching.cardinality.name(), "labels": matching.labels, "on": matching.on,
                    "include": matching.include,
                    "fillValues": {"lhs": matching.fill_left, "rhs": matching.fill_right},
                })
            });
            json!({
                "type": "binaryExpr", "op": binary.op.name(), "lhs": node(&binary.left), "rhs": node(&binary.right),
                "matching": matching, "bool": binary.is_bool,
            })
        }
    }
}
