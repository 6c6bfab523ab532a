//! Random expressions of the whole grammar, as text.

use super::Random;

const NAMES: [&str; 12] =
    ["a_total", "b_total", "a_count", "m", "n", "temperature", "h", "c_bucket", "m", "a_total", "n", "absent_metric"];
const LABELS: [&str; 5] = ["instance", "x", "y", "job", "le"];
const DURATIONS: [&str; 8] = ["15s", "30s", "1m", "90s", "2m", "5m", "7m", "17s"];
const MATCHERS: [&str; 10] = [
    r#"x="1""#,
    r#"x=~"1|2""#,
    r#"x!="3""#,
    r#"y="""#,
    r#"y!~"q""#,
    r#"instance=~"i[12]""#,
    r#"job="j""#,
    r#"instance="i1""#,
    r#"x=~".+""#,
    r#"z="""#,
];
const OF_FLOATS: [&str; 33] = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "deg",
    "exp",
    "floor",
    "ln",
    "log10",
    "log2",
    "rad",
    "sgn",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "year",
    "round",
    "timestamp",
];
const OF_HISTOGRAMS: [&str; 5] =
    ["histogram_count", "histogram_sum", "histogram_avg", "histogram_stdvar", "histogram_stddev"];
const OF_RANGES: [&str; 24] = [
    "rate",
    "increase",
    "delta",
    "irate",
    "idelta",
    "sum_over_time",
    "avg_over_time",
    "count_over_time",
    "present_over_time",
    "changes",
    "resets",
    "first_over_time",
    "last_over_time",
    "min_over_time",
    "max_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "mad_over_time",
    "deriv",
    "absent_over_time",
    "ts_of_min_over_time",
    "ts_of_max_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
];
const ARITHMETIC: [&str; 7] = ["+", "-", "*", "/", "%", "^", "atan2"];
const COMPARISONS: [&str; 6] = ["==", "!=", ">", "<", ">=", "<="];
const AGGREGATIONS: [&str; 8] = ["sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"];

/// Writes expressions. Those that pick elements by their order (topk, limitk) get operands whose order is that of the
/// series, so that there is one right answer.
pub struct Writer<'r> {
    pub random: &'r mut Random,
    pub modifiers: bool,
}

impl Writer<'_> {
    fn duration(&mut self) -> String {
        if self.random.one_in(12) {
            return self.random.pick(&["step() + 30s", "min_of(1m, range() + 15s)", "2 * 45s", "STEP() + 1m"]).into();
        }
        self.random.pick(&DURATIONS).into()
    }

    fn selector(&mut self) -> String {
        let mut matchers: Vec<&str> = Vec::new();
        while self.random.one_in(4) && matchers.len() < 3 {
            matchers.push(self.random.pick(&MATCHERS));
        }
        if self.random.one_in(12) {
            matchers.push(self.random.pick(&[r#"__name__=~"a_.*""#, r#"__name__=~"m|n""#, r#"__name__!="m",x="1""#]));
            return format!("{{{}}}", matchers.join(","));
        }
        let name = self.random.pick(&NAMES);
        if matchers.is_empty() { name.into() } else { format!("{name}{{{}}}", matchers.join(",")) }
    }

    /// `@` and `offset`, in either order, or neither.
    fn times(&mut self) -> String {
        let mut out = String::new();
        if self.random.one_in(6) {
            out += self.random.pick(&[" @ 300", " @ start()", " @ end()", " @ 611.5", " @ 0"]);
        }
        if self.random.one_in(5) {
            let sign = if self.random.one_in(4) { "-" } else { "" };
            out += &format!(" offset {sign}{}", self.random.pick(&DURATIONS));
        }
        out
    }

    pub fn matrix(&mut self, depth: usize) -> String {
        if depth == 0 || !self.random.one_in(3) {
            let (selector, duration) = (self.selector(), self.duration());
            return format!("{selector}[{duration}]{}", self.times());
        }
        let inner = self.vector(depth - 1);
        let step = if self.random.one_in(4) { String::new() } else { self.duration() };
        let duration = self.duration();
        format!("({inner})[{duration}:{step}]{}", self.times())
    }

    /// An operand that keeps the order of the selected series.
    fn ordered(&mut self) -> String {
        match self.random.below(4) {
            0 => format!("abs({})", self.selector()),
            1 => format!("{}({}[{}])", self.random.pick(&["rate", "last_over_time"]), self.selector(), self.duration()),
            2 => format!("{} + 1", self.selector()),
            _ => self.selector() + &self.times(),
        }
    }

    fn labels(&mut self) -> String {
        let mut labels: Vec<&str> = Vec::new();
        for label in LABELS {
            if self.random.one_in(3) {
                labels.push(label);
            }
        }
        labels.join(", ")
    }

    fn grouping(&mut self) -> String {
        match self.random.below(3) {
            0 => String::new(),
            1 => format!(" by ({})", self.labels()),
            _ => format!(" without ({})", self.labels()),
        }
    }

    fn aggregation(&mut self, depth: usize) -> String {
        let grouping = self.grouping();
        match self.random.below(14) {
            // Digits that depend on the order of a sum would become labels.
            0 => format!("count_values{grouping} (\"v\", {})", self.selector()),
            1 => {
                let q = self.scalar(depth - 1);
                format!("quantile{grouping} ({q}, {})", self.vector(depth - 1))
            }
            2 => {
                let op = self.random.pick(&["topk", "bottomk", "limitk"]);
                format!("{op}{grouping} ({}, {})", self.random.pick(&["0", "1", "2", "3"]), self.ordered())
            }
            3 => {
                let ratio = self.random.pick(&["0", "0.3", "-0.5", "1", "-1"]);
                format!("limit_ratio{grouping} ({ratio}, {})", self.ordered())
            }
            // What the owners of samples can carry out.
            4..=7 => {
                let op = self.random.pick(&AGGREGATIONS[..6]);
                let operand = if self.random.one_in(2) {
                    self.selector() + &self.times()
                } else {
                    format!(
                        "{}({}[{}]{})",
                        self.random.pick(&OF_RANGES[..12]),
                        self.selector(),
                        self.duration(),
                        self.times()
                    )
                };
                format!("{op}{grouping} ({operand})")
            }
            _ => format!("{}{grouping} ({})", self.random.pick(&AGGREGATIONS), self.vector(depth - 1)),
        }
    }

    pub fn scalar(&mut self, depth: usize) -> String {
        match self.random.below(if depth == 0 { 6 } else { 10 }) {
            0 => self.random.pick(&["0", "1", "0.5", "2", "-1", "NaN", "Inf", "0.9", "30"]).into(),
            1 => "time()".into(),
            2 => self.random.pick(&["pi()", "step()", "range()", "start()", "end()"]).into(),
            3..=5 => self.random.pick(&["0.25", "0.75", "1", "3", "7"]).into(),
            6 => format!("scalar({})", self.vector(depth - 1)),
            7 => format!("-({})", self.scalar(depth - 1)),
            8 => {
                let op = self.random.pick(&COMPARISONS);
                format!("({} {op} bool {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
            _ => {
                let op = self.random.pick(&ARITHMETIC);
                format!("({} {op} {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
        }
    }

    fn matching(&mut self, groups: bool) -> String {
        let mut out = String::new();
        if self.random.one_in(3) {
            let word = self.random.pick(&["on", "ignoring"]);
            out += &format!(" {word} ({})", self.labels());
            if groups && self.random.one_in(2) {
                let side = self.random.pick(&["group_left", "group_right"]);
                let include = if word == "ignoring" && self.random.one_in(2) { "y" } else { "" };
                out += &format!(" {side} ({include})");
            }
        }
        if groups && self.random.one_in(8) {
            out += self.random.pick(&[" fill(0)", " fill_left(1)", " fill_right(-1)", " fill_left(2) fill_right(3)"]);
        }
        out
    }

    fn binary(&mut self, depth: usize) -> String {
        let (left, right) = (self.vector(depth - 1), self.vector(depth - 1));
        match self.random.below(8) {
            0 => format!("({left}) {} {}", self.random.pick(&ARITHMETIC), self.scalar(depth - 1)),
            1 => format!("{} {} ({right})", self.scalar(depth - 1), self.random.pick(&ARITHMETIC)),
            2 => format!("({left}) {} {}", self.random.pick(&COMPARISONS), self.scalar(depth - 1)),
            3 => format!("{} {} bool ({right})", self.scalar(depth - 1), self.random.pick(&COMPARISONS)),
            4 => {
                let bool = if self.random.one_in(2) { " bool" } else { "" };
                format!("({left}) {}{bool}{} ({right})", self.random.pick(&COMPARISONS), self.matching(true))
            }
            5 => format!("({left}) {}{} ({right})", self.random.pick(&["and", "or", "unless"]), self.matching(false)),
            6 => {
                // Sides that match each other more often.
                let (side, grouping) = (self.selector(), self.labels());
                let op = self.random.pick(&ARITHMETIC);
                format!("{side} {op} on ({grouping}) group_left () sum by ({grouping}) ({side})")
            }
            _ => format!("({left}) {}{} ({right})", self.random.pick(&ARITHMETIC), self.matching(true)),
        }
    }

    pub fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.selector() + &self.times();
        }
        match self.random.below(24) {
            0 if self.modifiers && self.random.one_in(3) => format!("{} smoothed{}", self.selector(), self.times()),
            1 if self.modifiers && self.random.one_in(4) => {
                let function = self.random.pick(&["changes", "resets"]);
                format!("{function}({}[{}] anchored{})", self.selector(), self.random.pick(&DURATIONS), self.times())
            }
            0..=2 => self.selector() + &self.times(),
            3..=7 => self.aggregation(depth),
            8..=11 => self.binary(depth),
            12..=16 => format!("{}({})", self.random.pick(&OF_RANGES), self.matrix(depth)),
            17 => match self.random.below(4) {
                0 => format!("quantile_over_time({}, {})", self.scalar(depth - 1), self.matrix(depth)),
                1 => format!("predict_linear({}, {})", self.matrix(depth), self.scalar(depth - 1)),
                2 => format!("double_exponential_smoothing({}, 0.5, 0.25)", self.matrix(depth)),
                _ if self.modifiers => {
                    let function = self.random.pick(&["rate", "increase", "delta"]);
                    let modifier = self.random.pick(&["anchored", "smoothed"]);
                    let name = self.random.pick(&NAMES);
                    format!("{function}({name}[{}] {modifier}{})", self.random.pick(&DURATIONS), self.times())
                }
                _ => format!("rate({})", self.matrix(depth)),
            },
            18 => match self.random.below(5) {
                0 => {
                    format!("clamp({}, {}, {})", self.vector(depth - 1), self.scalar(depth - 1), self.scalar(depth - 1))
                }
                1 => format!("clamp_min({}, {})", self.vector(depth - 1), self.scalar(depth - 1)),
                2 => format!("clamp_max({}, {})", self.vector(depth - 1), self.scalar(depth - 1)),
                3 => format!("round({}, {})", self.vector(depth - 1), self.scalar(depth - 1)),
                _ => self.random.pick(&["hour()", "vector(time())", "vector(1)", "day_of_year()"]).into(),
            },
            19 => match self.random.below(4) {
                0 => format!(r#"label_replace({}, "z", "$1-v", "x", "(.*)")"#, self.vector(depth - 1)),
                1 => format!(r#"label_replace({}, "y", "", "x", "1")"#, self.vector(depth - 1)),
                2 => format!(r#"label_join({}, "z", "/", "x", "y")"#, self.vector(depth - 1)),
                _ => format!("vector({})", self.scalar(depth - 1)),
            },
            20 if self.random.one_in(2) => {
                let base = self.vector(depth - 1);
                match self.random.below(5) {
                    0 => format!(r#"info({base}, {{v=~".+"}})"#),
                    1 => format!(r#"info({base}, {{__name__=~"target_info|b_info"}})"#),
                    2 => format!(r#"info({base}, {{__name__!="b_info",v=~".*"}})"#),
                    3 => format!(r#"info({base}, {{__name__="b_info",w="1"}})"#),
                    _ => format!("info({base})"),
                }
            }
            20 => match self.random.below(3) {
                0 => format!("absent({})", self.vector(depth - 1)),
                1 => format!("-({})", self.vector(depth - 1)),
                _ => format!("sort({})", self.vector(depth - 1)),
            },
            21 => format!("{}({})", self.random.pick(&OF_HISTOGRAMS), self.histograms(depth)),
            22 => {
                let (q, low) = (self.scalar(0), self.random.pick(&["0", "0.5", "-1", "1.7"]));
                match self.random.below(3) {
                    0 => format!("histogram_quantile({q}, {})", self.histograms(depth)),
                    1 => format!("histogram_fraction({low}, {q}, {})", self.histograms(depth)),
                    _ => format!("histogram_quantile({q}, {})", self.vector(depth - 1)),
                }
            }
            _ => format!("{}({})", self.random.pick(&OF_FLOATS), self.vector(depth - 1)),
        }
    }

    fn histograms(&mut self, depth: usize) -> String {
        let name = self.random.pick(&["h", "c_bucket", "h", "m"]);
        match self.random.below(5) {
            0 => name.into(),
            1 => format!("rate({name}[{}])", self.random.pick(&DURATIONS)),
            2 => format!("sum by (le) ({name})"),
            3 => format!("sum by (le, instance) (rate({name}[{}]))", self.random.pick(&DURATIONS)),
            _ => self.vector(depth - 1),
        }
    }
}
