//! Values rounded before they are sent, as vmagent does: they take less room where they are stored.

use config::RemoteWrite;

/// `significant_figures` from which on nothing is rounded: a float has 17 at most.
const FIGURES_MAX: u64 = 18;
/// `round_digits` from which on nothing is rounded.
const DIGITS_MAX: i64 = 100;

/// How values are rounded: first to significant figures, then to digits behind the point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounding {
    figures: Option<usize>,
    digits: Option<i32>,
}

impl Rounding {
    pub fn new(settings: &RemoteWrite) -> Rounding {
        let figures = settings.significant_figures;
        let digits = settings.round_digits;
        Rounding {
            figures: (1..FIGURES_MAX).contains(&figures).then_some(figures as usize),
            digits: (-DIGITS_MAX + 1..DIGITS_MAX).contains(&digits).then_some(digits as i32),
        }
    }

    /// The value as it is sent. Markers, other NaNs and infinities stay.
    #[inline]
    pub fn round(self, value: f64) -> f64 {
        if self == Rounding::default() || !value.is_finite() { value } else { self.round_finite(value) }
    }

    fn round_finite(self, mut value: f64) -> f64 {
        if let Some(figures) = self.figures {
            // The nearest float to the rounded decimal, which a multiplication would miss.
            let rounded = format!("{value:.*e}", figures - 1).parse().ok();
            value = rounded.filter(|rounded: &f64| rounded.is_finite()).unwrap_or(value);
        }
        match self.digits {
            Some(digits @ 0..) => format!("{value:.*}", digits as usize).parse().unwrap_or(value),
            Some(digits) => {
                let unit = 10f64.powi(-digits);
                (value / unit).round() * unit
            }
            None => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::STALE_NAN;

    #[track_caller]
    fn check(significant_figures: u64, round_digits: i64, value: f64, want: f64) {
        let settings = RemoteWrite { significant_figures, round_digits, ..RemoteWrite::default() };
        let got = Rounding::new(&settings).round(value);
        assert_eq!(got.to_bits(), want.to_bits(), "{value}: {got}");
    }

    #[test]
    fn values_are_rounded_to_figures_and_digits() {
        let off = (0, 100);
        check(off.0, off.1, 1.23456789, 1.23456789);
        check(3, 100, 1.23456789, 1.23);
        check(3, 100, -123_456.0, -123_000.0);
        check(1, 100, 0.000_987, 0.001);
        check(18, 100, 0.1 + 0.2, 0.1 + 0.2);
        check(0, 2, 1.239, 1.24);
        check(0, 0, -2.7, -3.0);
        check(0, -2, 1_251.0, 1_300.0);
        check(4, 1, 12.3456, 12.3);
        check(0, -400, 5.5, 5.5);
        check(2, 2, 0.0, 0.0);
    }

    #[test]
    fn what_is_no_number_stays() {
        for value in [STALE_NAN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            check(2, 1, value, value);
        }
        // Rounded up it would be infinite.
        check(3, 100, f64::MAX, f64::MAX);
    }
}
