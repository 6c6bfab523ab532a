//! Least, middle and greatest of a few rounds. With so few there is nothing else to say honestly.

use serde::{Deserialize, Serialize};

/// What several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` if there is no number at all; what is not finite is left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { min, median, max })
    }

    /// Of the quotients of what was measured in the same round.
    pub fn of_ratios(above: &[Option<f64>], below: &[Option<f64>]) -> Option<Self> {
        Self::of(above.iter().zip(below).filter_map(|(above, below)| Some((*above)? / (*below)?)))
    }
}

/// "1 round", "3 rounds".
pub fn count_of(rounds: usize) -> String {
    format!("{rounds} round{}", if rounds == 1 { "" } else { "s" })
}

/// A number with about three digits that count.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "-".into(),
        _ if size == 0.0 => "0".into(),
        1_000_000.0.. => format!("{:.1} M", value / 1e6),
        1_000.0.. => {
            let whole = value.round().abs() as u64;
            format!("{}{},{:03}", if value < 0.0 { "-" } else { "" }, whole / 1_000, whole % 1_000)
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.001.. => format!("{value:.4}").trim_end_matches('0').to_owned(),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], want: Option<(f64, f64, f64)>) {
        let got = Spread::of(values.iter().copied()).map(|s| (s.min, s.median, s.max));
        assert_eq!(got, want);
    }

    #[test]
    fn spreads() {
        check(&[], None);
        check(&[f64::NAN], None);
        check(&[3.0], Some((3.0, 3.0, 3.0)));
        check(&[3.0, 1.0, 2.0], Some((1.0, 2.0, 3.0)));
        check(&[4.0, 1.0, 2.0, 3.0, f64::INFINITY], Some((1.0, 2.5, 4.0)));
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let got = Spread::of_ratios(&[Some(2.0), None, Some(9.0)], &[Some(1.0), Some(1.0), Some(3.0)]).unwrap();
        assert_eq!((got.min, got.max), (2.0, 3.0));
        assert_eq!(Spread::of_ratios(&[Some(1.0)], &[None]), None);
        assert_eq!(Spread::of_ratios(&[Some(1.0)], &[Some(0.0)]), None);
    }

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (0.1234567, "0.1235"), (0.05, "0.05"), (1.034, "1.03"), (17.26, "17.3"), (183.4, "183")];
        for (value, want) in cases.into_iter().chain([(3_537.2, "3,537"), (16_392_285.0, "16.4 M"), (f64::NAN, "-")]) {
            assert_eq!(digits(value), want);
        }
    }
}
