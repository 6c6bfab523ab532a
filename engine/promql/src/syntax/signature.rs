//! The functions of the language: names, arguments and results.

/// The type of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Scalar,
    String,
    Vector,
    Matrix,
}

impl ValueType {
    /// As errors name it.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
        }
    }

    /// As the HTTP API names it.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::Vector => "vector",
            ValueType::Matrix => "matrix",
        }
    }
}

/// A function's name and types.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub args: &'static [ValueType],
    /// How many of the last arguments may be left out.
    pub optional: usize,
    /// How many more of the last argument's type may follow.
    pub repeated: Option<usize>,
    pub returns: ValueType,
    pub experimental: bool,
}

use ValueType::{Matrix, Scalar, String as Text, Vector};

const fn function(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, optional: 0, repeated: None, returns, experimental: false }
}

const fn optional(mut function: Function, count: usize) -> Function {
    function.optional = count;
    function
}

const fn repeated(mut function: Function, optional: usize, more: usize) -> Function {
    function.optional = optional;
    function.repeated = Some(more);
    function
}

const fn experimental(mut function: Function) -> Function {
    function.experimental = true;
    function
}

static FUNCTIONS: &[Function] = &[
    function("abs", &[Vector], Vector),
    function("absent", &[Vector], Vector),
    function("absent_over_time", &[Matrix], Vector),
    function("acos", &[Vector], Vector),
    function("acosh", &[Vector], Vector),
    function("asin", &[Vector], Vector),
    function("asinh", &[Vector], Vector),
    function("atan", &[Vector], Vector),
    function("atanh", &[Vector], Vector),
    function("avg_over_time", &[Matrix], Vector),
    function("ceil", &[Vector], Vector),
    function("changes", &[Matrix], Vector),
    function("clamp", &[Vector, Scalar, Scalar], Vector),
    function("clamp_max", &[Vector, Scalar], Vector),
    function("clamp_min", &[Vector, Scalar], Vector),
    function("cos", &[Vector], Vector),
    function("cosh", &[Vector], Vector),
    function("count_over_time", &[Matrix], Vector),
    optional(function("day_of_month", &[Vector], Vector), 1),
    optional(function("day_of_week", &[Vector], Vector), 1),
    optional(function("day_of_year", &[Vector], Vector), 1),
    optional(function("days_in_month", &[Vector], Vector), 1),
    function("deg", &[Vector], Vector),
    function("delta", &[Matrix], Vector),
    function("deriv", &[Matrix], Vector),
    experimental(function("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector)),
    experimental(function("end", &[], Scalar)),
    function("exp", &[Vector], Vector),
    function("first_over_time", &[Matrix], Vector),
    function("floor", &[Vector], Vector),
    function("histogram_avg", &[Vector], Vector),
    function("histogram_count", &[Vector], Vector),
    function("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    function("histogram_quantile", &[Scalar, Vector], Vector),
    experimental(repeated(function("histogram_quantiles", &[Vector, Text, Scalar], Vector), 0, 9)),
    function("histogram_stddev", &[Vector], Vector),
    function("histogram_stdvar", &[Vector], Vector),
    function("histogram_sum", &[Vector], Vector),
    optional(function("hour", &[Vector], Vector), 1),
    function("idelta", &[Matrix], Vector),
    function("increase", &[Matrix], Vector),
    experimental(optional(function("info", &[Vector, Vector], Vector), 1)),
    function("irate", &[Matrix], Vector),
    repeated(function("label_join", &[Vector, Text, Text, Text], Vector), 1, usize::MAX - 8),
    function("label_replace", &[Vector, Text, Text, Text, Text], Vector),
    function("last_over_time", &[Matrix], Vector),
    function("ln", &[Vector], Vector),
    function("log10", &[Vector], Vector),
    function("log2", &[Vector], Vector),
    experimental(function("mad_over_time", &[Matrix], Vector)),
    experimental(function("max_of", &[Scalar, Scalar], Scalar)),
    function("max_over_time", &[Matrix], Vector),
    experimental(function("min_of", &[Scalar, Scalar], Scalar)),
    function("min_over_time", &[Matrix], Vector),
    optional(function("minute", &[Vector], Vector), 1),
    optional(function("month", &[Vector], Vector), 1),
    function("pi", &[], Scalar),
    function("predict_linear", &[Matrix, Scalar], Vector),
    function("present_over_time", &[Matrix], Vector),
    function("quantile_over_time", &[Scalar, Matrix], Vector),
    function("rad", &[Vector], Vector),
    experimental(function("range", &[], Scalar)),
    function("rate", &[Matrix], Vector),
    function("resets", &[Matrix], Vector),
    optional(function("round", &[Vector, Scalar], Vector), 1),
    function("scalar", &[Vector], Scalar),
    function("sgn", &[Vector], Vector),
    function("sin", &[Vector], Vector),
    function("sinh", &[Vector], Vector),
    function("sort", &[Vector], Vector),
    experimental(repeated(function("sort_by_label", &[Vector, Text], Vector), 1, usize::MAX - 8)),
    experimental(repeated(function("sort_by_label_desc", &[Vector, Text], Vector), 1, usize::MAX - 8)),
    function("sort_desc", &[Vector], Vector),
    function("sqrt", &[Vector], Vector),
    experimental(function("start", &[], Scalar)),
    function("start_timestamp", &[Vector], Vector),
    function("stddev_over_time", &[Matrix], Vector),
    function("stdvar_over_time", &[Matrix], Vector),
    experimental(function("step", &[], Scalar)),
    function("sum_over_time", &[Matrix], Vector),
    function("tan", &[Vector], Vector),
    function("tanh", &[Vector], Vector),
    function("time", &[], Scalar),
    function("timestamp", &[Vector], Vector),
    experimental(function("ts_of_first_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_last_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_max_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_min_over_time", &[Matrix], Vector)),
    function("vector", &[Scalar], Vector),
    optional(function("year", &[Vector], Vector), 1),
];

/// All functions, sorted by name.
pub fn all() -> &'static [Function] {
    FUNCTIONS
}

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|function| function.name.cmp(name)).ok().map(|at| &FUNCTIONS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(FUNCTIONS.is_sorted_by(|one, other| one.name < other.name));
    }
}
