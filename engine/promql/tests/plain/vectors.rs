//! Aggregations, and functions of labels.

use super::ranges::{quantile, variance};
use super::{Element, Outcome, Plain, Value, unique, without_name};
use promql::ast::{Aggregate, AggregateOp, Selector};
use promql::{Expr, Kind};
use series::histogram::Histogram;
use series::{Labels, METRIC_NAME, MatchOp, Matcher, Regex};
use std::sync::Arc;

struct Group {
    labels: Labels,
    drop_name: bool,
    members: Vec<Element>,
}

impl Group {
    fn floats(&self) -> Vec<f64> {
        let float = |element: &Element| match element.value {
            Value::Float(value) => Some(value),
            Value::Histogram(_) => None,
        };
        self.members.iter().filter_map(float).collect()
    }

    fn histograms(&self) -> Vec<Arc<Histogram>> {
        let histogram = |element: &Element| match &element.value {
            Value::Histogram(histogram) => Some(histogram.clone()),
            Value::Float(_) => None,
        };
        self.members.iter().filter_map(histogram).collect()
    }
}

fn groups(aggregate: &Aggregate, elements: Vec<Element>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for element in elements {
        let stays = |name: &str| {
            let listed = aggregate.labels.iter().any(|label| label == name);
            if aggregate.without { !listed && name != METRIC_NAME } else { listed }
        };
        let labels = Labels::from_pairs(element.labels.iter().filter(|(name, _)| stays(name)));
        let group = match groups.iter_mut().find(|group| group.labels == labels) {
            Some(group) => group,
            None => {
                groups.push(Group { labels, drop_name: false, members: Vec::new() });
                groups.last_mut().expect("just pushed")
            }
        };
        group.drop_name |= element.drop_name;
        group.members.push(element);
    }
    groups
}

/// A whole number of elements.
fn elements_of(parameter: f64) -> Outcome<usize> {
    if parameter.is_nan() || parameter.abs() >= i64::MAX as f64 {
        return Err("no number of elements".into());
    }
    Ok(if parameter < 1.0 { 0 } else { parameter as usize })
}

fn total(group: &Group, mean: bool) -> Option<Value> {
    let (floats, histograms) = (group.floats(), group.histograms());
    match (floats.is_empty(), histograms.is_empty()) {
        (false, true) => {
            let sum = floats.iter().fold(0.0, |sum, value| sum + value);
            Some(Value::Float(if mean { sum / floats.len() as f64 } else { sum }))
        }
        (true, false) => {
            let mut sum = (*histograms[0]).clone();
            for histogram in &histograms[1..] {
                sum.add(histogram).ok()?;
            }
            if mean {
                sum.divide(histograms.len() as f64);
            }
            Some(Value::Histogram(Arc::new(sum)))
        }
        _ => None,
    }
}

/// NaN only if there is nothing else.
fn extreme(values: &[f64], largest: bool) -> Option<f64> {
    let better = |best: f64, value: f64| {
        if best.is_nan() || (largest && value > best) || (!largest && value < best) { value } else { best }
    };
    values.iter().copied().reduce(better)
}

impl Plain<'_> {
    pub fn aggregate(&self, aggregate: &Aggregate, time: i64) -> Outcome<Vec<Element>> {
        use AggregateOp::*;
        let op = aggregate.op;
        let parameter = match (&aggregate.parameter, op) {
            (Some(expr), op) if op != CountValues => self.scalar(expr, time)?,
            _ => 0.0,
        };
        let elements = self.vector(&aggregate.expr, time)?;
        match op {
            Topk | Bottomk | Limitk => drop(elements_of(parameter)?),
            LimitRatio if parameter.is_nan() => return Err("no ratio".into()),
            _ => {}
        }
        let mut out = Vec::new();
        for group in groups(aggregate, elements) {
            match op {
                CountValues => {
                    let text = self.text(aggregate.parameter.as_ref().expect("a label"), time)?;
                    self.count_values(&group, &text, &mut out);
                    continue;
                }
                Topk | Bottomk | Limitk | LimitRatio => {
                    out.extend(self.chosen(op, parameter, group)?);
                    continue;
                }
                _ => {}
            }
            let floats = group.floats();
            let of_floats = |value: f64| (!floats.is_empty()).then_some(Value::Float(value));
            let value = match op {
                Sum => total(&group, false),
                Avg => total(&group, true),
                Count => Some(Value::Float(group.members.len() as f64)),
                Group => Some(Value::Float(1.0)),
                Min => extreme(&floats, false).map(Value::Float),
                Max => extreme(&floats, true).map(Value::Float),
                Stddev => of_floats(variance(&floats).sqrt()),
                Stdvar => of_floats(variance(&floats)),
                _ => of_floats(quantile(parameter, &floats)),
            };
            if let Some(value) = value {
                out.push(Element { labels: group.labels, drop_name: group.drop_name, value });
            }
        }
        unique(out)
    }

    fn count_values(&self, group: &Group, label: &str, out: &mut Vec<Element>) {
        for member in &group.members {
            let text = match &member.value {
                Value::Float(value) if value.is_nan() => "NaN".to_owned(),
                Value::Float(value) if value.is_infinite() => if *value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
                Value::Float(value) => format!("{value}"),
                Value::Histogram(histogram) => histogram.to_string(),
            };
            let mut builder = group.labels.to_builder();
            builder.set(label, &text);
            let labels = builder.build();
            match out.iter_mut().find(|element| element.labels == labels) {
                Some(Element { value: Value::Float(count), .. }) => *count += 1.0,
                _ => {
                    let drop_name = group.drop_name && label != METRIC_NAME;
                    out.push(Element { labels, drop_name, value: Value::Float(1.0) });
                }
            }
        }
    }

    /// Aggregations whose answer is some of the input.
    fn chosen(&self, op: AggregateOp, parameter: f64, group: Group) -> Outcome<Vec<Element>> {
        let mut members = group.members;
        match op {
            AggregateOp::Topk | AggregateOp::Bottomk => {
                let float = |element: &Element| match element.value {
                    Value::Float(value) => value,
                    Value::Histogram(_) => f64::NAN,
                };
                members.retain(|element| matches!(element.value, Value::Float(_)));
                let largest = op == AggregateOp::Topk;
                members.sort_by(|one, other| {
                    let (a, b) = (float(one), float(other));
                    match a.partial_cmp(&b) {
                        Some(order) if largest => order.reverse(),
                        Some(order) => order,
                        None => a.is_nan().cmp(&b.is_nan()),
                    }
                });
                members.truncate(elements_of(parameter)?);
            }
            AggregateOp::Limitk => members.truncate(elements_of(parameter)?),
            _ => {
                let ratio = parameter.clamp(-1.0, 1.0);
                members.retain(|element| {
                    let place = element.labels.hash64() as f64 / u64::MAX as f64;
                    if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio }
                });
            }
        }
        Ok(members)
    }

    /// One element with the labels that the selector asks for by value, if nothing is present.
    pub fn absent(&self, expr: &Expr, nothing: bool) -> Vec<Element> {
        let selector: Option<&Selector> = match &expr.inner().kind {
            Kind::Vector(selector) => Some(selector),
            Kind::Matrix { selector, .. } => Some(selector),
            _ => None,
        };
        let mut builder = Labels::empty().to_builder();
        for matcher in selector.iter().flat_map(|selector| &selector.matchers) {
            let selector = selector.expect("it has matchers");
            let mut same = selector.matchers.iter().filter(|other| other.name() == matcher.name());
            let is_only_equal = same.clone().filter(|other| other.op() == MatchOp::Equal).count() == 1;
            let is_last = same.next_back() == Some(matcher);
            if matcher.op() == MatchOp::Equal && matcher.name() != METRIC_NAME && is_only_equal && is_last {
                builder.set(matcher.name(), matcher.value());
            }
        }
        let element = Element { labels: builder.build(), drop_name: false, value: Value::Float(1.0) };
        if nothing { vec![element] } else { Vec::new() }
    }

    fn set_label(
        &self,
        elements: Vec<Element>,
        name: &str,
        of: impl Fn(&Labels) -> Option<String>,
    ) -> Outcome<Vec<Element>> {
        let set = |mut element: Element| {
            if let Some(value) = of(&element.labels) {
                let mut builder = element.labels.to_builder();
                builder.set(name, &value);
                element.labels = builder.build();
                element.drop_name &= name != METRIC_NAME;
            }
            element
        };
        unique(elements.into_iter().map(set).collect())
    }

    /// The replacement is `$1` or a constant: what the generator writes.
    pub fn label_replace(&self, args: &[Expr], time: i64) -> Outcome<Vec<Element>> {
        let text = |i: usize| self.text(&args[i], time);
        let (name, replacement, source, pattern) = (text(1)?, text(2)?, text(3)?, text(4)?);
        let regex = Regex::new(&pattern).map_err(|_| "no expression".to_owned())?;
        self.set_label(self.vector(&args[0], time)?, &name, |labels| {
            let value = labels.get(&source).unwrap_or("");
            let mut found = series::Groups::default();
            if !regex.find_groups(value, &mut found) {
                return None;
            }
            let first = found.get(1).copied().flatten().map_or("", |(start, end)| &value[start..end]);
            Some(replacement.replace("$1", first))
        })
    }

    pub fn label_join(&self, args: &[Expr], time: i64) -> Outcome<Vec<Element>> {
        let texts: Outcome<Vec<String>> = args[1..].iter().map(|arg| self.text(arg, time)).collect();
        let texts = texts?;
        self.set_label(self.vector(&args[0], time)?, &texts[0], |labels| {
            let values: Vec<&str> = texts[2..].iter().map(|name| labels.get(name).unwrap_or("")).collect();
            Some(values.join(&texts[1]))
        })
    }

    /// Adds the labels of the info series with the same job and instance, as they were at the time of the base's samples.
    pub fn info(&self, args: &[Expr], time: i64) -> Outcome<Vec<Element>> {
        let base = self.vector(&args[0], time)?;
        let matchers: &[Matcher] = match args.get(1).map(|arg| &arg.inner().kind) {
            Some(Kind::Vector(selector)) => &selector.matchers,
            _ => &[],
        };
        let time = first_selector(&args[0]).map_or(time, |first| self.shifted(first, time));
        let (on_name, on_data): (Vec<&Matcher>, Vec<&Matcher>) =
            matchers.iter().partition(|matcher| matcher.name() == METRIC_NAME);
        let is_positive = |matcher: &&Matcher| matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex);
        let is_info = |name: &str| match on_name.iter().any(is_positive) {
            _ if on_name.is_empty() => name == "target_info",
            true => on_name.iter().all(|matcher| matcher.matches(name)),
            false => name.len() > 5 && name.ends_with("_info") && on_name.iter().all(|matcher| matcher.matches(name)),
        };
        let mut infos: Vec<(i64, &Labels)> = Vec::new();
        for stored in self.stored.iter().filter(|stored| is_info(stored.labels.metric_name())) {
            if let Some((at, value)) = self.newest(stored, time) {
                if matches!(value, Value::Histogram(_)) {
                    return Err("info sample should be float".into());
                }
                infos.push((at, &stored.labels));
            }
        }
        let mut out = Vec::new();
        for mut element in base {
            if is_info(element.labels.metric_name()) {
                out.push(element);
                continue;
            }
            let of_same = |(_, labels): &&(i64, &Labels)| {
                ["instance", "job"].iter().all(|name| labels.get(name) == element.labels.get(name))
            };
            let mut newest: Vec<(i64, &Labels)> = Vec::new();
            for (at, labels) in infos.iter().filter(of_same) {
                match newest.iter_mut().find(|(_, known)| known.metric_name() == labels.metric_name()) {
                    None => newest.push((*at, labels)),
                    Some(known) if known.0 == *at => return Err("found duplicate series for info metric".into()),
                    Some(known) if known.0 < *at => *known = (*at, labels),
                    Some(_) => {}
                }
            }
            let mut builder = element.labels.to_builder();
            let mut is_enriched = false;
            for (_, labels) in newest {
                if !on_data.iter().all(|matcher| matcher.matches_labels(labels)) {
                    continue;
                }
                is_enriched = true;
                for (name, value) in labels.iter() {
                    let is_wanted = on_data.is_empty() || on_data.iter().any(|matcher| matcher.name() == name);
                    if is_wanted && name != METRIC_NAME && element.labels.get(name).is_none() {
                        if !builder.get(name).is_empty() && builder.get(name) != value {
                            return Err("conflicting label".into());
                        }
                        builder.set(name, value);
                    }
                }
            }
            if is_enriched || on_data.iter().all(|matcher| matcher.matches("")) {
                element.labels = builder.build();
                out.push(element);
            }
        }
        unique(out)
    }

    /// For `by` and `on`: the labels without the name and without those listed, or those listed alone.
    pub fn signature(labels: &Labels, on: bool, listed: &[String]) -> Labels {
        let is_listed = |name: &str| listed.iter().any(|label| label == name);
        match on {
            true => Labels::from_pairs(labels.iter().filter(|(name, _)| is_listed(name))),
            false => Labels::from_pairs(without_name(labels).iter().filter(|(name, _)| !is_listed(name))),
        }
    }
}

/// The first selector in the text.
fn first_selector(expr: &Expr) -> Option<&Selector> {
    match &expr.kind {
        Kind::Number(_) | Kind::String(_) | Kind::InvalidString(_) => None,
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => Some(selector),
        Kind::Subquery(subquery) => first_selector(&subquery.expr),
        Kind::Call { args, .. } => args.iter().find_map(first_selector),
        Kind::Negation(inner) | Kind::Paren(inner) => first_selector(inner),
        Kind::Binary(binary) => first_selector(&binary.left).or_else(|| first_selector(&binary.right)),
        Kind::Aggregate(aggregate) => {
            let parameter = aggregate.parameter.as_ref().and_then(first_selector);
            parameter.or_else(|| first_selector(&aggregate.expr))
        }
    }
}
