//! Functions of one float, dates among them.

use crate::eval::context::{EvalContext, EvalError};
use crate::eval::value::{ABSENT, Column};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::Expr;

/// Whether [`float_function`] knows the name.
pub(crate) fn is_float_function(name: &str) -> bool {
    FLOAT_FUNCTIONS.contains(&name)
}

#[rustfmt::skip]
const FLOAT_FUNCTIONS: [&str; 31] = [
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "deg", "exp", "floor", "ln",
    "log10", "log2", "rad", "sgn", "sin", "sinh", "sqrt", "tan", "tanh", "day_of_month", "day_of_week", "day_of_year",
    "days_in_month", "hour", "minute", "month", "year",
];

/// The function of this name.
pub(crate) fn float_function(name: &str) -> fn(f64) -> f64 {
    match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "sgn" => |value| {
            if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                value
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        "day_of_month" => |value| date(value).day as f64,
        "day_of_week" => |value| (date(value).days + 4).rem_euclid(7) as f64,
        "day_of_year" => |value| {
            let date = date(value);
            (date.days - series::days_from_civil(date.year, 1, 1) + 1) as f64
        },
        "days_in_month" => |value| {
            let Date { year, month, .. } = date(value);
            series::days_in_month(year, month) as f64
        },
        "hour" => |value| (whole_seconds(value).rem_euclid(86_400) / 3600) as f64,
        "minute" => |value| (whole_seconds(value).rem_euclid(3600) / 60) as f64,
        "month" => |value| date(value).month as f64,
        "year" => |value| date(value).year as f64,
        _ => unreachable!("{name} is in the table of functions"),
    }
}

/// As Go turns a float into a time: towards zero; what does not fit lands somewhere.
fn whole_seconds(value: f64) -> i64 {
    // A year that fits the arithmetic of dates.
    (value as i64).clamp(-(1 << 50), 1 << 50)
}

struct Date {
    days: i64,
    year: i64,
    month: i64,
    day: i64,
}

/// Days since the epoch and the date of the proleptic Gregorian calendar.
fn date(value: f64) -> Date {
    let days = whole_seconds(value).div_euclid(86_400);
    let (year, month, day) = series::civil_from_days(days);
    Date { days, year, month, day }
}

/// The smaller number, as Go has it: minus infinity goes before NaN, and NaN before all else.
fn smaller(one: f64, other: f64) -> f64 {
    let is_decided = one == f64::NEG_INFINITY || other == f64::NEG_INFINITY;
    if !is_decided && (one.is_nan() || other.is_nan()) { f64::NAN } else { one.min(other) }
}

/// The larger number: infinity goes before NaN, and NaN before all else.
fn larger(one: f64, other: f64) -> f64 {
    let value = -smaller(-one, -other);
    if value.is_nan() { f64::NAN } else { value }
}

/// `round` and the functions that clamp.
pub(crate) fn bounded(
    context: &EvalContext,
    name: &str,
    args: &[Expr],
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    let columns = context.vector(&args[0], grid)?;
    let scalar = |i: usize| args.get(i).map(|arg| context.scalar(arg, grid)).transpose();
    let (first, second) = (scalar(1)?, scalar(2)?);
    let at = |values: &Option<Vec<f64>>, i: usize, default: f64| values.as_ref().map_or(default, |values| values[i]);
    context
        .map_floats(columns, |value, i| match name {
            "round" => {
                let inverse = 1.0 / at(&first, i, 1.0);
                (value * inverse + 0.5).floor() / inverse
            }
            "clamp_min" => larger(at(&first, i, 0.0), value),
            "clamp_max" => smaller(at(&first, i, 0.0), value),
            _ => {
                let (low, high) = (at(&first, i, 0.0), at(&second, i, 0.0));
                if high < low { ABSENT } else { larger(low, smaller(high, value)) }
            }
        })
        .map(|columns| columns.into_iter().filter(|column| !column.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinity_goes_before_nan_and_nan_before_numbers() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for (one, other, small, large) in [
            (1.0, 2.0, 1.0, 2.0),
            (nan, -inf, -inf, nan),
            (nan, inf, nan, inf),
            (nan, 1.0, nan, nan),
            (-inf, inf, -inf, inf),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let is = |got: f64, want: f64| got == want || got.is_nan() && want.is_nan();
                assert!(is(smaller(one, other), small) && is(larger(one, other), large), "{one} and {other}");
            }
        }
    }

    #[test]
    fn dates_of_any_time() {
        for (time, year, month, day) in [
            (0.0, 1970, 1, 1),
            (-1.0, 1969, 12, 31),
            (951_782_400.0, 2000, 2, 29),
            (4_107_542_399.0, 2100, 2, 28),
            (f64::NAN, 1970, 1, 1),
        ] {
            let date = date(time);
            assert_eq!((date.year, date.month, date.day), (year, month, day), "{time}");
        }
        assert_eq!(float_function("days_in_month")(951_782_400.0), 29.0);
        assert_eq!(float_function("day_of_week")(0.0), 4.0);
        assert_eq!(float_function("day_of_year")(951_782_400.0), 60.0);
    }
}
