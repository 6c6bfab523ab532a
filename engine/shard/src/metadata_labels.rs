//! Labels for the type and unit of a series' metric, where the server is started with the feature for them.

use exposition::Kind;

const TYPE_LABEL: &str = "__type__";
const UNIT_LABEL: &str = "__unit__";

/// The labels that a line gets. An unknown type and no unit are no labels, so that those of the line stay.
pub fn metadata_labels<'a>(kind: Kind, unit: Option<&'a str>) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    let kind: Option<(&'a str, &'a str)> = (kind != Kind::Unknown).then(|| (TYPE_LABEL, kind.as_str()));
    let unit = unit.filter(|unit| !unit.is_empty()).map(|unit| (UNIT_LABEL, unit));
    kind.into_iter().chain(unit)
}
