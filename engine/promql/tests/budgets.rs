//! Queries that grow: they end with a result within their budget, or with an error that says what they need.

use promql::budget::{Budget, BudgetLimits, MemoryPool};
use promql::{
    EvalError, Plan, PlanOptions, QueryResult, QueryValue, SelectResult, SelectedSeries, SeriesBatch, SeriesSource,
};
use series::{Labels, Sample, Timestamp};

const MIB: u64 = 1 << 20;
const DAY_MS: i64 = 86_400_000;

fn series(count: usize, samples: i64, interval_ms: i64) -> Vec<SelectedSeries> {
    let one = |i: usize| SelectedSeries {
        labels: Labels::from_pairs([("__name__", "c_total"), ("job", "x"), ("i", &i.to_string())]),
        samples: (0..samples)
            .map(|t| Sample { timestamp: Timestamp(t * interval_ms), value: (t * (1 + i as i64)) as f64 })
            .collect(),
        histograms: Vec::new(),
        starts: Vec::new(),
    };
    (0..count).map(one).collect()
}

fn limits(samples_max: u64, bytes_max: u64) -> Budget {
    Budget::new(BudgetLimits { samples_max, bytes_max, deadline: None }, None)
}

fn run(plan: &Plan, budget: &Budget, data: impl Fn() -> Vec<SelectedSeries>) -> Result<QueryResult, EvalError> {
    plan.evaluate(plan.selects().iter().map(|_| SelectResult::Series(data())).collect(), budget)
}

#[track_caller]
fn columns(result: QueryResult) -> usize {
    match result.value {
        QueryValue::Vector(columns) => columns.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn samples_are_counted_where_they_are_present() {
    // 50 series of 30 samples: a rate over a day has 1,441 steps, and values at few of them.
    let plan = Plan::range("rate(c_total[5m])", 0, DAY_MS, 60_000, &PlanOptions::default()).unwrap();
    let budget = limits(20_000, u64::MAX);
    let result = run(&plan, &budget, || series(50, 30, 15_000)).unwrap();
    assert!(result.samples_peak < 20_000, "{}", result.samples_peak);
    assert_eq!(columns(result), 50);
    let error = run(&plan, &limits(200, u64::MAX), || series(50, 30, 15_000)).unwrap_err();
    assert!(error.to_string().contains("--query.max-samples=200"), "{error}");
}

#[test]
fn nothing_stays_charged() {
    let pool = MemoryPool::new(u64::MAX);
    for (query, bytes_max) in [("sum(c_total) + c_total", u64::MAX), ("c_total * 2", u64::MAX), ("c_total", 4096)] {
        let budget = Budget::new(BudgetLimits { bytes_max, ..BudgetLimits::default() }, Some(pool.clone()));
        let plan = Plan::range(query, 0, DAY_MS, 60_000, &PlanOptions::default()).unwrap();
        let result = run(&plan, &budget, || series(20, 4000, 15_000));
        assert_eq!(result.is_ok(), bytes_max == u64::MAX, "{query}");
        assert!(budget.bytes_peak() > 0 || result.is_err(), "{query}");
        drop(result);
        assert_eq!((budget.samples(), budget.bytes(), pool.bytes()), (0, 0, 0), "{query}");
    }
}

#[test]
fn a_new_series_at_each_step_costs_what_it_holds() {
    let plan =
        Plan::range(r#"count_values("v", vector(time()))"#, 0, 11_000_000, 1000, &PlanOptions::default()).unwrap();
    let budget = limits(u64::MAX, 32 * MIB);
    let result = run(&plan, &budget, Vec::new).unwrap();
    assert_eq!(columns(result), 11_001);
    assert!(budget.bytes_peak() < 16 * MIB, "{} bytes", budget.bytes_peak());
    // Where every series needs a value for each time, it does not fit, and says so.
    let plan = Plan::range(r#"count_values("v", vector(time())) > 0"#, 0, 11_000_000, 1000, &PlanOptions::default());
    let error = run(&plan.unwrap(), &limits(u64::MAX, 32 * MIB), Vec::new).unwrap_err().to_string();
    assert!(error.contains("query needs at least") && error.contains("--query.max-memory-per-query=32MiB"), "{error}");
}

#[test]
fn a_subquery_holds_one_series_at_a_time() {
    let query = r#"count_over_time({job="x"}[3d:1s])"#;
    let plan = Plan::instant(query, 3 * DAY_MS, &PlanOptions::default()).unwrap();
    let budget = limits(u64::MAX, 16 * MIB);
    let result = run(&plan, &budget, || series(156, 20, 60_000)).unwrap();
    assert_eq!(columns(result), 156);
    assert!(budget.bytes_peak() < 8 * MIB, "{} bytes", budget.bytes_peak());
    let error = run(&plan, &limits(u64::MAX, MIB), || series(156, 20, 60_000)).unwrap_err().to_string();
    assert!(error.ends_with("which exceeds --query.max-memory-per-query=1024KiB"), "{error}");
}

/// Makes series when they are asked for.
struct Source {
    batches: std::ops::Range<usize>,
    budget: Budget,
}

impl SeriesSource for Source {
    fn next_batch(&mut self) -> Result<Option<SeriesBatch>, EvalError> {
        let Some(batch) = self.batches.next() else { return Ok(None) };
        let mut series = series(20 * (batch + 1), 100, 15_000).split_off(20 * batch);
        series.iter_mut().for_each(|series| series.samples.shrink_to_fit());
        let bytes: usize = series.iter().map(SelectedSeries::bytes).sum();
        let charge = Some(self.budget.charge(0, bytes as u64)?);
        Ok(Some(SeriesBatch { series, charge }))
    }
}

fn sources(plan: &Plan, budget: &Budget, batches: usize) -> Vec<SelectResult> {
    let source =
        |_| -> SelectResult { SelectResult::Batches(Box::new(Source { batches: 0..batches, budget: budget.clone() })) };
    plan.selects().iter().map(source).collect()
}

#[test]
fn batches_are_released_when_they_have_been_evaluated() {
    let budget = limits(u64::MAX, 2 * MIB);
    let plan = Plan::range("sum(rate(c_total[5m]))", 0, 1_500_000, 15_000, &PlanOptions::default()).unwrap();
    let result = plan.evaluate(sources(&plan, &budget, 50), &budget).unwrap();
    assert_eq!(columns(result), 1);
    assert!(budget.bytes_peak() < MIB, "{} bytes", budget.bytes_peak());
}

#[test]
fn selects_are_fetched_when_they_are_needed() {
    let query = vec!["c_total"; 200].join(" or ");
    let budget = limits(u64::MAX, 4 * MIB);
    let plan = Plan::range(&query, 0, 1_500_000, 15_000, &PlanOptions::default()).unwrap();
    let result = plan.evaluate(sources(&plan, &budget, 1), &budget).unwrap();
    assert_eq!(columns(result), 20);
    assert!(budget.bytes_peak() < MIB, "{} bytes", budget.bytes_peak());
}

#[test]
fn a_cancelled_query_stops_between_two_series() {
    struct Cancels(Budget, usize);
    impl SeriesSource for Cancels {
        fn next_batch(&mut self) -> Result<Option<SeriesBatch>, EvalError> {
            self.1 += 1;
            assert!(self.1 < 3, "asked on after the query was cancelled");
            if self.1 == 2 {
                self.0.cancel();
            }
            Ok(Some(SeriesBatch { series: series(1, 10, 15_000), charge: None }))
        }
    }
    let budget = Budget::unlimited();
    let plan = Plan::instant("sum(c_total)", 60_000, &PlanOptions::default()).unwrap();
    let source = SelectResult::Batches(Box::new(Cancels(budget.clone(), 0)));
    assert_eq!(plan.evaluate(vec![source], &budget).unwrap_err(), EvalError::Canceled);
}
