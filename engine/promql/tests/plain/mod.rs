//! A slow, plain evaluator: one time after the other, one series after the other, straight from the tree. It knows no
//! columns, no plans and no pushdown, and shares no code with the evaluation that it judges but the parser and the
//! arithmetic of histograms.

mod binary;
mod functions;
mod ranges;
mod vectors;

use promql::ast::{At, DurationExpr, RangeModifier, Selector, Subquery};
use promql::{Expr, Kind};
use series::histogram::Histogram;
use series::{Labels, METRIC_NAME, is_stale};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
}

/// A stored series: samples in order of time, staleness markers included.
#[derive(Clone, Debug)]
pub struct Stored {
    pub labels: Labels,
    pub samples: Vec<(i64, Value)>,
}

/// One element of an instant vector.
#[derive(Clone, Debug)]
pub struct Element {
    pub labels: Labels,
    /// The name is dropped at the end.
    pub drop_name: bool,
    pub value: Value,
}

/// One series of a range vector, with the window's bounds: open at `start`.
pub struct Range {
    pub labels: Labels,
    pub drop_name: bool,
    pub samples: Vec<(i64, Value)>,
    pub start: i64,
    pub end: i64,
    pub modifier: RangeModifier,
}

pub enum Result1 {
    Scalar(f64),
    Text(String),
    Vector(Vec<Element>),
}

pub type Outcome<T> = Result<T, String>;

pub const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// A query over stored series.
pub struct Plain<'a> {
    pub stored: &'a [Stored],
    pub start: i64,
    pub end: i64,
    pub step: i64,
    pub is_range: bool,
    pub lookback: i64,
    pub inner_step: i64,
    pub delayed_names: bool,
    /// Of histograms count and sum alone are wanted.
    pub stats: std::cell::Cell<bool>,
}

pub fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

pub fn is_marker(value: &Value) -> bool {
    match value {
        Value::Float(value) => is_stale(*value),
        Value::Histogram(histogram) => is_stale(histogram.sum),
    }
}

pub fn without_name(labels: &Labels) -> Labels {
    Labels::from_pairs(labels.iter().filter(|(name, _)| *name != METRIC_NAME))
}

fn offset(offset: &Option<DurationExpr>) -> i64 {
    offset.as_ref().map_or(0, |offset| offset.ms)
}

impl Plain<'_> {
    fn at(&self, at: Option<At>, time: i64) -> i64 {
        match at {
            None => time,
            Some(At::Start) => self.start,
            Some(At::End) => self.end,
            Some(At::Ms(ms)) => ms,
        }
    }

    /// The time that a selector looks at.
    pub fn shifted(&self, selector: &Selector, time: i64) -> i64 {
        self.at(selector.at, time) - offset(&selector.offset)
    }

    /// What the query yields at one time of it.
    pub fn result(&self, expr: &Expr, time: i64) -> Outcome<Vec<Element>> {
        match self.eval(expr, time)? {
            Result1::Scalar(value) => {
                Ok(vec![Element { labels: Labels::empty(), drop_name: false, value: Value::Float(value) }])
            }
            Result1::Text(_) => Err("a string".into()),
            Result1::Vector(elements) => unique(
                elements
                    .into_iter()
                    .map(|mut element| {
                        if element.drop_name {
                            element.labels = without_name(&element.labels);
                        }
                        element
                    })
                    .collect(),
            ),
        }
    }

    pub fn eval(&self, expr: &Expr, time: i64) -> Outcome<Result1> {
        Ok(match &expr.kind {
            Kind::Number(number) => Result1::Scalar(number.value),
            Kind::String(text) => Result1::Text(text.clone()),
            Kind::InvalidString(_) => return Err("a name that is no UTF-8".into()),
            Kind::Paren(inner) => self.eval(inner, time)?,
            Kind::Vector(selector) => Result1::Vector(self.instant(selector, time)),
            Kind::Matrix { .. } | Kind::Subquery(_) => return Err("a range vector".into()),
            Kind::Negation(inner) => match self.eval(inner, time)? {
                Result1::Scalar(value) => Result1::Scalar(-value),
                Result1::Vector(elements) => Result1::Vector(self.map(elements, |value| match value {
                    Value::Float(value) => Some(Value::Float(-value)),
                    Value::Histogram(histogram) => {
                        let mut negated = (**histogram).clone();
                        negated.scale(-1.0);
                        Some(Value::Histogram(Arc::new(negated)))
                    }
                })?),
                Result1::Text(_) => return Err("minus a string".into()),
            },
            Kind::Binary(binary) => self.binary(binary, time)?,
            Kind::Aggregate(aggregate) => Result1::Vector(self.aggregate(aggregate, time)?),
            Kind::Call { function, args } => self.call(function.name, args, time)?,
        })
    }

    pub fn vector(&self, expr: &Expr, time: i64) -> Outcome<Vec<Element>> {
        match self.eval(expr, time)? {
            Result1::Vector(elements) => Ok(elements),
            _ => Err("no vector".into()),
        }
    }

    pub fn scalar(&self, expr: &Expr, time: i64) -> Outcome<f64> {
        match self.eval(expr, time)? {
            Result1::Scalar(value) => Ok(value),
            _ => Err("no scalar".into()),
        }
    }

    pub fn text(&self, expr: &Expr, time: i64) -> Outcome<String> {
        match self.eval(expr, time)? {
            Result1::Text(text) => Ok(text),
            _ => Err("no string".into()),
        }
    }

    fn selected(&self, selector: &Selector) -> Vec<Stored> {
        let matching = |one: &&Stored| selector.matchers.iter().all(|matcher| matcher.matches_labels(&one.labels));
        let mut found: Vec<Stored> = self.stored.iter().filter(matching).cloned().collect();
        if self.stats.get() {
            found.iter_mut().for_each(|stored| keep_stats(&mut stored.samples));
        }
        found
    }

    /// The time of the newest sample, and the sample, within the lookback.
    pub fn newest(&self, stored: &Stored, time: i64) -> Option<(i64, Value)> {
        let (at, value) = stored.samples.iter().rfind(|(at, _)| *at <= time)?;
        (*at > time - self.lookback && !is_marker(value)).then(|| (*at, value.clone()))
    }

    fn instant(&self, selector: &Selector, time: i64) -> Vec<Element> {
        let time = self.at(selector.at, time) - offset(&selector.offset);
        let value = |stored: &Stored| match selector.modifier {
            RangeModifier::Smoothed => ranges::smoothed_at(stored, time, self.lookback),
            _ => self.newest(stored, time).map(|(_, value)| value),
        };
        let element =
            |stored: &Stored| Some(Element { labels: stored.labels.clone(), drop_name: false, value: value(stored)? });
        self.selected(selector).iter().filter_map(element).collect()
    }

    /// The times of the newest samples, in seconds.
    fn timestamps(&self, selector: &Selector, time: i64) -> Vec<Element> {
        let time = self.at(selector.at, time) - offset(&selector.offset);
        let element = |stored: &Stored| {
            let (at, _) = self.newest(stored, time)?;
            Some(Element { labels: stored.labels.clone(), drop_name: false, value: Value::Float(seconds(at)) })
        };
        self.selected(selector).iter().filter_map(element).collect()
    }

    pub fn range(&self, expr: &Expr, time: i64) -> Outcome<Vec<Range>> {
        match &expr.kind {
            Kind::Paren(inner) => self.range(inner, time),
            Kind::Matrix { selector, range } => {
                let end = self.at(selector.at, time) - offset(&selector.offset);
                let start = end - range.ms;
                let of_series = |stored: &Stored| {
                    let all: Vec<(i64, Value)> =
                        stored.samples.iter().filter(|(_, value)| !is_marker(value)).cloned().collect();
                    let samples = ranges::within(&all, start, end, selector.modifier, self.lookback);
                    let labels = stored.labels.clone();
                    Range { labels, drop_name: false, samples, start, end, modifier: selector.modifier }
                };
                Ok(self.selected(selector).iter().map(of_series).filter(|range| !range.samples.is_empty()).collect())
            }
            Kind::Subquery(subquery) => self.subquery(subquery, time),
            _ => Err("no range vector".into()),
        }
    }

    fn subquery(&self, subquery: &Subquery, time: i64) -> Outcome<Vec<Range>> {
        let end = self.at(subquery.at, time) - offset(&subquery.offset);
        let start = end - subquery.range.ms;
        let step = subquery.step.as_ref().map_or(self.inner_step, |step| step.ms);
        let mut all: Vec<Range> = Vec::new();
        // Multiples of the step within the window.
        let mut at = start.div_euclid(step) * step + step;
        while at <= end {
            let outer = self.stats.replace(false);
            let elements = self.vector(&subquery.expr, at);
            self.stats.set(outer);
            for element in elements? {
                let known = all.iter_mut().find(|range| range.labels == element.labels);
                let range = match known {
                    Some(range) => range,
                    None => {
                        let (labels, modifier) = (element.labels.clone(), RangeModifier::Plain);
                        all.push(Range { labels, drop_name: false, samples: Vec::new(), start, end, modifier });
                        all.last_mut().expect("just pushed")
                    }
                };
                range.drop_name |= element.drop_name;
                range.samples.push((at, ranges::detached(element.value)));
            }
            at += step;
        }
        Ok(all)
    }

    /// Takes the name away, now or at the end.
    pub fn nameless(&self, element: &mut Element) {
        if self.delayed_names {
            element.drop_name = true;
        } else {
            element.labels = without_name(&element.labels);
        }
    }

    /// A function of each value; names are dropped.
    pub fn map(&self, elements: Vec<Element>, of: impl Fn(&Value) -> Option<Value>) -> Outcome<Vec<Element>> {
        let mut out = Vec::new();
        for mut element in elements {
            if let Some(value) = of(&element.value) {
                element.value = value;
                self.nameless(&mut element);
                out.push(element);
            }
        }
        unique(out)
    }
}

/// Leaves of each histogram count and sum, and whether it follows a reset.
fn keep_stats(samples: &mut [(i64, Value)]) {
    let mut before: Option<Arc<Histogram>> = None;
    for (_, value) in samples {
        let Value::Histogram(histogram) = value else { continue };
        let mut hint = histogram.hint;
        if let (series::histogram::ResetHint::Unknown, Some(before)) = (hint, &before) {
            use series::histogram::ResetHint::{NotReset, Reset};
            hint = if histogram.detect_reset(before) { Reset } else { NotReset };
        }
        let (schema, count, sum) = (histogram.schema, histogram.count, histogram.sum);
        let stats = Histogram { hint, schema, count, sum, ..Histogram::default() };
        before = Some(std::mem::replace(histogram, Arc::new(stats)));
    }
}

/// Fails if two elements have the same labels.
pub fn unique(elements: Vec<Element>) -> Outcome<Vec<Element>> {
    for (i, one) in elements.iter().enumerate() {
        if elements[..i].iter().any(|other| other.labels == one.labels) {
            return Err(SAME_LABELS.into());
        }
    }
    Ok(elements)
}
