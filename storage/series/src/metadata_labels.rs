//! Labels for the type and unit of a series' metric, where a server is started with the feature for them.

/// The label with the type of the metric.
pub const TYPE_LABEL: &str = "__type__";
/// The label with the unit of the metric.
pub const UNIT_LABEL: &str = "__unit__";

/// Returns labels of a series with those for the type and unit of its metric, behind the others. An empty or unknown type and
/// an empty unit are no labels: then the series keeps those that it has.
pub fn with_metadata_labels<'a>(
    labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    kind: &'a str,
    unit: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    let kind = if kind == "unknown" { "" } else { kind };
    let own = [(TYPE_LABEL, kind), (UNIT_LABEL, unit)].into_iter().filter(|(_, value)| !value.is_empty());
    let of_metric = own.clone();
    labels.filter(move |(name, _)| !of_metric.clone().any(|(own, _)| own == *name)).chain(own)
}
