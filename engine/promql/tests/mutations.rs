//! Queries that something bit into: a clear error or an answer, within bounds, and no panic.

use promql::budget::{Budget, BudgetLimits};
use promql::{ParseOptions, Plan, PlanOptions, SelectResult, SelectedSeries, StepGrid};
use series::{Labels, Sample, Timestamp};

const QUERIES: [&str; 14] = [
    r#"sum by (a, b) (rate(m_total{x=~"a|b",y!="c"}[5m])) / on (a) group_left (z) {"ütf.8", c!~".+"}"#,
    r#"histogram_quantile(0.9, sum without (i) (increase(h_bucket[1h:5m] offset -3m @ 1.5e3)))"#,
    r#"topk(3, m) or bottomk by (a) (2, m) unless ignoring (q) m and -m ^ 2 % 3 atan2 m"#,
    r#"label_replace(m, "dst", "$1${2}$$", "src", "(.*)-(?P<n>.*)") == bool 1"#,
    r#"label_join(m, 'd', `,`, "a", "b") > bool m"#,
    r#"count_values("v", m) + on() fill(0) vector(1e-3) + fill_left(1) fill_right(2) m"#,
    r#"predict_linear(m[5m], 3600) * holt(m)"#,
    r#"max_over_time((m @ start())[10m:1m] @ end()) + scalar(m) + time() + 0x1F + 1_000 + 5m30s + Inf - NaN"#,
    r#"quantile_over_time(0.5, m[5m * 2]) and m offset (step() + 1s)"#,
    r#"sort_desc(info(m, {version=~".+"})) # a comment"#,
    r#"rate(m[5m] anchored) + increase(m[1m] smoothed) + m smoothed"#,
    r#"limitk(2, m) + limit_ratio(-0.5, m) + m </ 2 >/ 1"#,
    r#"absent_over_time(m{a="b"}[5m]) + days_in_month() + double_exponential_smoothing(m[5m], 0.5, 0.5)"#,
    r#""text \u00e9 \x41 \101 \"" "#,
];

/// Everything that can be switched on.
fn options() -> PlanOptions {
    let parse = ParseOptions {
        experimental_functions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
        ..ParseOptions::default()
    };
    PlanOptions { parse, delayed_name_removal: true, ..PlanOptions::default() }
}

fn data(plan: &Plan) -> Vec<SelectResult> {
    let series = |i: usize| SelectedSeries {
        labels: Labels::from_pairs([("__name__", "m"), ("a", &i.to_string())]),
        samples: (0..30).map(|t| Sample { timestamp: Timestamp(t * 10_000), value: (t * (i as i64)) as f64 }).collect(),
        histograms: Vec::new(),
        starts: Vec::new(),
    };
    plan.selects().iter().map(|_| SelectResult::Series((0..3).map(series).collect())).collect()
}

#[test]
fn no_mutation_does_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut number = |below: usize| {
        // A linear congruential generator (Knuth's MMIX): the same mutations everywhere.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let words: Vec<&str> =
        QUERIES.iter().flat_map(|query| query.split_inclusive([' ', '(', ')', '[', '{', ','])).collect();
    let (mut parsed, mut evaluated) = (0, 0);
    for round in 0..10_000 {
        let mut query = QUERIES[round % QUERIES.len()].as_bytes().to_vec();
        for _ in 0..=number(4) {
            let at = number(query.len());
            match number(6) {
                0 => query[at] = number(256) as u8,
                1 => drop(query.remove(at)),
                2 => query.truncate(at + 1),
                3 => {
                    let word = words[number(words.len())];
                    query.splice(at..at, word.bytes());
                }
                4 => {
                    let end = at + number(query.len() - at);
                    let piece = query[at..end].to_vec();
                    query.splice(at..at, piece);
                }
                _ => query[at] = b"(){}[],:@-+*/^%<>=!~\"'`0"[number(24)],
            }
            if query.is_empty() {
                query.push(b'm');
            }
        }
        let text = String::from_utf8_lossy(&query);
        let plan = if round % 2 == 0 {
            Plan::instant(&text, 300_000, &options())
        } else {
            Plan::range(&text, 0, 300_000, 30_000, &options())
        };
        // What can be read can be written, and read again to the same.
        if let Ok(formatted) = promql::format(&text, &options().parse) {
            let again = promql::format(&formatted, &options().parse);
            assert_eq!(again.as_ref(), Ok(&formatted), "{text:?} became {formatted:?}");
        }
        let Ok(plan) = plan else { continue };
        parsed += 1;
        assert!(plan.grid == StepGrid::instant(300_000) || plan.grid.count == 11);
        let limits = Budget::new(BudgetLimits { samples_max: 200_000, ..BudgetLimits::default() }, None);
        evaluated += usize::from(plan.evaluate(data(&plan), &limits).is_ok());
    }
    assert!(parsed > 500 && evaluated > 200, "{parsed} parsed, {evaluated} evaluated: the mutations are too wild");
}

#[test]
fn nesting_and_length_end_in_an_error() {
    let options = options();
    for text in [
        "(".repeat(100_000),
        "-".repeat(100_000) + "1",
        format!("{}m{}", "abs(".repeat(50_000), ")".repeat(50_000)),
        "1".to_owned() + &"+1".repeat(100_000),
        "1".to_owned() + &"^1".repeat(100_000),
        format!("m[{}1{}]", "(".repeat(10_000), ")".repeat(10_000)),
        "m".to_owned() + &"[5m:1m]".repeat(10_000),
        "m".repeat(2 << 20),
        "sum by (a) ".repeat(20_000),
    ] {
        assert!(Plan::instant(&text, 0, &options).is_err(), "{}", &text[..30]);
    }
    let many_steps = Plan::instant("m[10000y:1ms]", 0, &options);
    assert!(many_steps.is_err());
    let plan = Plan::instant("count_over_time(vector(1)[1000d:1m])", 0, &options).unwrap();
    let small = Budget::new(BudgetLimits { samples_max: 1000, ..BudgetLimits::default() }, None);
    let error = plan.evaluate(Vec::new(), &small).unwrap_err().to_string();
    let prometheus = "query processing would load too many samples into memory in query execution";
    assert_eq!(error, format!("{prometheus} (at least 1440000 samples needed, --query.max-samples=1000)"));
}

/// As deep as the parser allows, on a thread with as little stack as those that evaluate queries.
#[test]
fn deep_expressions_fit_the_stack() {
    const STACK_BYTES: usize = 2 << 20;
    let nested = |open: &str, close: &str, count: usize| open.repeat(count) + "m" + &close.repeat(count);
    let texts = [
        nested("abs(", ")", 240),
        nested("-(", ")", 120),
        nested("1 + (", ")", 120),
        nested("m and (", ")", 120),
        nested("sum by (a) (", ")", 240),
        nested("topk(2, ", ")", 240),
        nested("max_over_time((", ")[1m:1m])", 80),
        nested("sum(rate((", ")[1m:1m]))", 60),
        nested("label_replace(", r#", "b", "$1", "a", "(.*)")"#, 240),
        vec!["m"; 240].join(" or "),
    ];
    for text in texts {
        let evaluate = move || {
            let plan =
                Plan::range(&text, 0, 300_000, 30_000, &options()).unwrap_or_else(|error| panic!("{error}: {text}"));
            plan.evaluate(data(&plan), &Budget::unlimited()).map(drop).map_err(|error| error.to_string())
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(evaluate).unwrap();
        thread.join().expect("no panic").unwrap();
    }
}
