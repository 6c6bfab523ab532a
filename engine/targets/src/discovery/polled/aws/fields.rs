//! Labels that are named as the fields of an answer are.

use super::super::row::Row;
use serde_json::Value;

/// Sets a label for each of these fields: with the name given, or else that of the field in snake case.
pub fn fill(row: &mut Row, prefix: &str, value: &Value, fields: &[(&str, &str)], pointers: &[&str]) {
    for pointer in pointers {
        let label = snake(pointer.trim_start_matches('/'));
        set(row, &format!("{prefix}{label}"), value, &format!("/{pointer}"));
    }
    for (label, pointer) in fields {
        set(row, &format!("{prefix}{label}"), value, pointer);
    }
}

fn set(row: &mut Row, label: &str, value: &Value, pointer: &str) {
    let text = row.scalar(value, pointer);
    row.set(label, whole_seconds(&text));
}

/// Returns a time without its fraction of a second; another text as it is.
fn whole_seconds(text: &str) -> String {
    let is_time = text.len() > 20 && text.as_bytes()[10] == b'T' && text.ends_with('Z') && text.is_ascii();
    match text.split_once('.') {
        Some((seconds, _)) if is_time && seconds.len() == 19 => format!("{seconds}Z"),
        _ => text.to_owned(),
    }
}

/// Returns `DBClusterIdentifier` as `db_cluster_identifier`.
fn snake(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (index, c) in characters.iter().enumerate() {
        let after_word = index > 0 && !characters[index - 1].is_ascii_uppercase();
        let begins_word = index > 0 && characters.get(index + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_word || begins_word) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_become_names_of_labels() {
        for (field, label) in [
            ("DBClusterIdentifier", "db_cluster_identifier"),
            ("MultiAZ", "multi_az"),
            ("PerformanceInsightsKMSKeyId", "performance_insights_kms_key_id"),
            ("ServerlessV2PlatformVersion", "serverless_v2_platform_version"),
            ("IAMDatabaseAuthenticationEnabled", "iam_database_authentication_enabled"),
            ("IOOptimizedNextAllowedModificationTime", "io_optimized_next_allowed_modification_time"),
            ("DBSystemId", "db_system_id"),
            ("Iops", "iops"),
        ] {
            assert_eq!(snake(field), label);
        }
    }

    #[test]
    fn times_have_whole_seconds() {
        assert_eq!(whole_seconds("2024-01-02T03:04:05.678Z"), "2024-01-02T03:04:05Z");
        assert_eq!(whole_seconds("2024-01-02T03:04:05Z"), "2024-01-02T03:04:05Z");
        assert_eq!(whole_seconds("7.1"), "7.1");
        assert_eq!(whole_seconds("ééééééééééé.Z"), "ééééééééééé.Z");
    }
}
