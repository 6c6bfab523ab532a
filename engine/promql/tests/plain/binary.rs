//! Operators between two sides.

use super::{Element, Outcome, Plain, Result1, Value, unique};
use promql::ast::{Binary, BinaryOp, Cardinality, VectorMatching};
use series::Labels;
use series::histogram::ResetHint;
use std::sync::Arc;

fn arithmetic(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Atan2 => a.atan2(b),
        other => panic!("no arithmetic: {}", other.name()),
    }
}

fn holds(op: BinaryOp, a: f64, b: f64) -> bool {
    match op {
        BinaryOp::Equal => a == b,
        BinaryOp::NotEqual => a != b,
        BinaryOp::Greater => a > b,
        BinaryOp::Less => a < b,
        BinaryOp::GreaterEqual => a >= b,
        BinaryOp::LessEqual => a <= b,
        other => panic!("no comparison: {}", other.name()),
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn is_trim(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// The result, and whether a comparison holds.
fn values(op: BinaryOp, left: &Value, right: &Value) -> Option<(Value, bool)> {
    use BinaryOp::*;
    let histogram = |histogram| Some((Value::Histogram(Arc::new(histogram)), true));
    match (left, right) {
        (Value::Float(a), Value::Float(b)) => {
            if op.is_comparison() {
                return Some((Value::Float(*a), holds(op, *a, *b)));
            }
            if is_trim(op) { None } else { Some((Value::Float(arithmetic(op, *a, *b)), true)) }
        }
        (Value::Histogram(a), Value::Float(b)) => match op {
            Mul => {
                let mut out = (**a).clone();
                out.scale(*b);
                histogram(out)
            }
            Div => {
                let mut out = (**a).clone();
                out.divide(*b);
                histogram(out)
            }
            TrimUpper | TrimLower => histogram(a.trimmed(*b, op == TrimUpper)),
            _ => None,
        },
        (Value::Float(a), Value::Histogram(b)) => {
            let mut out = (**b).clone();
            out.scale(*a);
            if op == Mul { histogram(out) } else { None }
        }
        (Value::Histogram(a), Value::Histogram(b)) => {
            let mut out = (**a).clone();
            match op {
                Add => out.add(b).ok().and_then(|_| histogram(out)),
                Sub => {
                    out.sub(b).ok()?;
                    out.hint = ResetHint::Gauge;
                    histogram(out)
                }
                Equal => Some((left.clone(), a.same_as(b))),
                NotEqual => Some((left.clone(), !a.same_as(b))),
                _ => None,
            }
        }
    }
}

impl Plain<'_> {
    pub fn binary(&self, binary: &Binary, time: i64) -> Outcome<Result1> {
        let (op, is_bool) = (binary.op, binary.is_bool);
        let outer = self.stats.get();
        self.stats.set(outer && !is_trim(op));
        let sides = (self.eval(&binary.left, time), self.eval(&binary.right, time));
        self.stats.set(outer);
        match (sides.0?, sides.1?) {
            (Result1::Scalar(a), Result1::Scalar(b)) => Ok(Result1::Scalar(if op.is_comparison() {
                truth(holds(op, a, b))
            } else if is_trim(op) {
                f64::NAN
            } else {
                arithmetic(op, a, b)
            })),
            (Result1::Vector(elements), Result1::Scalar(scalar)) => {
                self.with_scalar(op, is_bool, elements, |value| (value, Value::Float(scalar)))
            }
            (Result1::Scalar(scalar), Result1::Vector(elements)) => {
                self.with_scalar(op, is_bool, elements, |value| (Value::Float(scalar), value))
            }
            (Result1::Vector(left), Result1::Vector(right)) => {
                let matching = binary.matching.as_ref().expect("vectors are matched");
                if op.is_set() {
                    return Ok(Result1::Vector(set(op, matching, left, right)?));
                }
                Ok(Result1::Vector(self.matched(binary, matching, left, right)?))
            }
            _ => Err("a string in an operation".into()),
        }
    }

    fn keeps_name(op: BinaryOp, is_bool: bool) -> bool {
        (op.is_comparison() && !is_bool) || is_trim(op)
    }

    fn with_scalar(
        &self,
        op: BinaryOp,
        is_bool: bool,
        elements: Vec<Element>,
        sides: impl Fn(Value) -> (Value, Value),
    ) -> Outcome<Result1> {
        let mut out = Vec::new();
        for mut element in elements {
            let (left, right) = sides(element.value.clone());
            let Some((value, holds)) = values(op, &left, &right) else { continue };
            element.value = match (op.is_comparison(), is_bool) {
                (true, true) => Value::Float(truth(holds)),
                (true, false) if holds => element.value,
                (true, false) => continue,
                _ => value,
            };
            if !Self::keeps_name(op, is_bool) {
                self.nameless(&mut element);
            }
            out.push(element);
        }
        unique(out).map(Result1::Vector)
    }

    fn matched(
        &self,
        binary: &Binary,
        matching: &VectorMatching,
        left: Vec<Element>,
        right: Vec<Element>,
    ) -> Outcome<Vec<Element>> {
        let fills = (matching.fill_left, matching.fill_right);
        if (left.is_empty() || right.is_empty()) && fills == (None, None) {
            return Ok(Vec::new());
        }
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let (fill_many, fill_one) = if swapped { (fills.1, fills.0) } else { fills };
        let key = |element: &Element| Self::signature(&element.labels, matching.on, &matching.labels);
        for (i, element) in one.iter().enumerate() {
            if one[..i].iter().any(|other| key(other) == key(element)) {
                return Err("found duplicate series for the match group".into());
            }
        }
        let result = |many: &Value, one: &Value| {
            let (left, right) = if swapped { (one, many) } else { (many, one) };
            let (value, holds) = values(binary.op, left, right)?;
            if binary.is_bool {
                return Some(Value::Float(truth(holds)));
            }
            holds.then_some(value)
        };
        let mut out = Vec::new();
        let mut matched: Vec<Labels> = Vec::new();
        for element in &many {
            let signature = key(element);
            let partner = one.iter().find(|other| key(other) == signature);
            let filled = fill_one.map(Value::Float);
            let Some(value) = partner.map(|partner| &partner.value).or(filled.as_ref()) else {
                continue;
            };
            if matching.cardinality == Cardinality::OneToOne && matched.contains(&signature) {
                return Err("multiple matches for labels".into());
            }
            matched.push(signature);
            if let Some(value) = result(&element.value, value) {
                out.push(self.joined(binary, matching, element, partner, value));
            }
        }
        for partner in &one {
            let signature = key(partner);
            if let (Some(fill), false) = (fill_many, many.iter().any(|element| key(element) == signature)) {
                let nothing = Element { labels: signature, drop_name: false, value: Value::Float(fill) };
                if let Some(value) = result(&nothing.value, &partner.value) {
                    out.push(self.joined(binary, matching, &nothing, Some(partner), value));
                }
            }
        }
        unique(out).map_err(|_| "multiple matches for labels".into())
    }

    /// The result of a pair.
    fn joined(
        &self,
        binary: &Binary,
        matching: &VectorMatching,
        many: &Element,
        one: Option<&Element>,
        value: Value,
    ) -> Element {
        let mut element = Element { value, ..many.clone() };
        if !Self::keeps_name(binary.op, binary.is_bool) {
            self.nameless(&mut element);
        }
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        if matching.cardinality == Cardinality::OneToOne {
            element.labels = Labels::from_pairs(element.labels.iter().filter(|(name, _)| listed(name) == matching.on));
        }
        let mut builder = element.labels.to_builder();
        // What was filled in has the labels of the match alone.
        let one =
            one.map_or_else(|| Self::signature(&many.labels, matching.on, &matching.labels), |one| one.labels.clone());
        for name in &matching.include {
            match one.get(name) {
                Some(value) => builder.set(name, value),
                None => builder.remove(name),
            }
        }
        element.labels = builder.build();
        element
    }
}

fn set(op: BinaryOp, matching: &VectorMatching, left: Vec<Element>, right: Vec<Element>) -> Outcome<Vec<Element>> {
    let key = |element: &Element| Plain::signature(&element.labels, matching.on, &matching.labels);
    let within = |element: &Element, others: &[Element]| others.iter().any(|other| key(other) == key(element));
    Ok(match op {
        BinaryOp::And => left.into_iter().filter(|element| within(element, &right)).collect(),
        BinaryOp::Unless => left.into_iter().filter(|element| !within(element, &right)).collect(),
        _ => {
            let mut all = left.clone();
            all.extend(right.into_iter().filter(|element| !within(element, &left)));
            return unique(all);
        }
    })
}
