//! Recording rules over the farm's app payload: what a contender is made to evaluate.
//!
//! Invariant: every rule has a result as soon as its family has been scraped twice.

use std::fmt::Write;

use crate::scenario::Rules;

/// Label values of the app payload's families of counters (`farm`'s catalogue).
const METHODS: [&str; 2] = ["GET", "POST"];
const STATUSES: [&str; 2] = ["200", "404"];
const URIS: [&str; 4] = ["/orders", "/orders/{id}", "/customers", "/customers/{id}"];
/// Families with all labels that a payload of 1,360 samples has.
const FAMILIES: usize = 50;

/// A rule file: a group for each twenty rules. Of a family, sixteen rules have one series per target each, and four
/// have four.
pub fn file(rules: &Rules) -> String {
    let mut out = String::from("groups:\n");
    for number in 0..rules.count {
        let (group, at) = (number / 20, number % 20);
        if at == 0 {
            _ = writeln!(out, "- name: group_{group:03}\n  interval: {}s\n  rules:", rules.interval_s);
        }
        let uri = URIS[at % 4];
        let narrower = match at / 4 {
            4 => String::new(),
            both => format!(",method=\"{}\",status=\"{}\"", METHODS[both % 2], STATUSES[both / 2]),
        };
        let selector = format!("http_server_requests_f{:02}{{uri=\"{uri}\"{narrower}}}", group % FAMILIES);
        _ = writeln!(out, "  - record: {}\n    expr: 'sum by (job) (rate({selector}[1m]))'", name(number));
    }
    out
}

/// What a rule records.
pub fn name(number: usize) -> String {
    format!("bench:requests:rate1m_{number:04}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_twenty_rules() {
        let text = file(&Rules { count: 45, interval_s: 15, duration_s: 60 });
        assert_eq!((text.matches("- name: ").count(), text.matches("record: ").count()), (3, 45));
        let want = "expr: 'sum by (job) (rate(http_server_requests_f00{uri=\"/orders/{id}\",method=\"POST\",\
                    status=\"404\"}[1m]))'";
        assert!(text.contains(want), "{text}");
    }
}
