//! Values of one series at all times of a query.

use series::histogram::Histogram;
use series::{Labels, METRIC_NAME, STALE_NAN, Sample, StartTimes, TYPE_LABEL, UNIT_LABEL, Value, is_stale};
use std::sync::Arc;

/// A series that a select found: samples in order of time, markers of staleness included.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedSeries {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    /// Start times of the samples, if the select wants them.
    pub starts: StartTimes,
}

impl SelectedSeries {
    /// Samples as Prometheus counts them.
    pub(crate) fn size(&self) -> usize {
        self.samples.len() + self.histograms.iter().map(|(_, histogram)| histogram_size(histogram)).sum::<usize>()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.labels.bytes()
            + self.samples.capacity() * size_of::<Sample>()
            + self.starts.capacity() * size_of::<(i64, i64)>()
            + self.histograms.iter().map(|(_, histogram)| 16 + heap_bytes(histogram)).sum::<usize>()
    }
}

/// "No value here". Arithmetic never makes these bits, and samples with them are markers, which selects leave out.
pub(crate) const ABSENT: f64 = STALE_NAN;

pub fn is_absent(value: f64) -> bool {
    is_stale(value)
}

#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl From<Point> for Value {
    fn from(point: Point) -> Value {
        match point {
            Point::Float(value) => Value::Float(value),
            Point::Histogram(histogram) => Value::Histogram(histogram),
        }
    }
}

/// A series with a value, or none, for each time of the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub labels: Labels,
    /// The name is not part of the answer, though functions of labels still see it.
    pub(crate) drop_name: bool,
    /// The index in the grid of the first value. It is 0, and there is a value for each time, but in the final result:
    /// there a series that lives shortly has only as many values as it needs.
    pub(crate) first: usize,
    /// Absent where there is no value, or a histogram.
    pub(crate) values: Vec<f64>,
    /// As many as values, if there is a histogram at all.
    pub(crate) histograms: Option<Vec<Option<Arc<Histogram>>>>,
}

impl Column {
    /// A column of floats that begins at an index of the grid.
    pub(crate) fn starting_at(first: usize, labels: Labels, values: Vec<f64>) -> Column {
        Column { first, ..Column::new(labels, values) }
    }

    /// The number of values that it has memory for.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// One value for each of `count` times.
    pub(crate) fn expanded(mut self, count: usize) -> Column {
        if self.values.len() == count {
            assert_eq!(self.first, 0, "all times of the grid");
            return self;
        }
        let (first, end) = (self.first, self.first + self.values.len());
        assert!(end <= count, "within the grid");
        let mut values = vec![ABSENT; count];
        values[first..end].copy_from_slice(&self.values);
        let histograms = self.histograms.take().map(|list| {
            let mut all = vec![None; count];
            all[first..end].clone_from_slice(&list);
            all
        });
        Column { first: 0, values, histograms, ..self }
    }

    /// Index in the grid and value of every float.
    pub fn floats(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let values = self.values.iter().enumerate().filter(|(_, value)| !is_absent(**value));
        values.map(|(i, value)| (self.first + i, *value))
    }

    /// Index in the grid and value of every histogram.
    pub fn histograms(&self) -> impl Iterator<Item = (usize, &Arc<Histogram>)> {
        let list = self.histograms.iter().flatten().enumerate();
        list.filter_map(|(i, histogram)| Some((self.first + i, histogram.as_ref()?)))
    }

    /// A column of floats, one for each time.
    pub fn of_floats(labels: Labels, values: Vec<f64>) -> Column {
        Column::new(labels, values)
    }

    pub(crate) fn new(labels: Labels, values: Vec<f64>) -> Column {
        Column { labels, drop_name: false, first: 0, values, histograms: None }
    }

    pub fn histogram(&self, i: usize) -> Option<&Arc<Histogram>> {
        self.histograms.as_ref()?.get(i.checked_sub(self.first)?)?.as_ref()
    }

    pub fn point(&self, i: usize) -> Option<Point> {
        match i.checked_sub(self.first).and_then(|i| self.values.get(i)) {
            Some(value) if !is_absent(*value) => Some(Point::Float(*value)),
            _ => self.histogram(i).cloned().map(Point::Histogram),
        }
    }

    pub fn has(&self, i: usize) -> bool {
        let value = i.checked_sub(self.first).and_then(|i| self.values.get(i));
        value.is_some_and(|value| !is_absent(*value)) || self.histogram(i).is_some()
    }

    pub(crate) fn set(&mut self, i: usize, point: Option<Point>) {
        debug_assert_eq!(self.first, 0, "columns are expanded before they change");
        if let Some(histograms) = &mut self.histograms {
            histograms[i] = None;
        }
        match point {
            None => self.values[i] = ABSENT,
            Some(Point::Float(value)) => self.values[i] = value,
            Some(Point::Histogram(histogram)) => {
                self.values[i] = ABSENT;
                let count = self.values.len();
                self.histograms.get_or_insert_with(|| vec![None; count])[i] = Some(histogram);
            }
        }
    }

    /// No value at any time.
    pub fn absent(labels: Labels, count: usize) -> Column {
        Column::new(labels, vec![ABSENT; count])
    }

    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|value| is_absent(*value))
            && self.histograms.as_ref().is_none_or(|list| list.iter().all(Option::is_none))
    }

    /// Bytes of a column of floats.
    pub(crate) fn bytes_of(labels: &Labels, count: usize) -> usize {
        size_of::<Column>() + labels.bytes() + count * size_of::<f64>()
    }

    /// Bytes of its histograms. Neighbours often share one.
    pub(crate) fn histogram_bytes(&self) -> usize {
        let Some(list) = &self.histograms else { return 0 };
        let mut bytes = list.len() * size_of::<Option<Arc<Histogram>>>();
        let mut before: Option<&Arc<Histogram>> = None;
        for histogram in list.iter().flatten() {
            if before.is_none_or(|before| !Arc::ptr_eq(before, histogram)) {
                bytes += heap_bytes(histogram);
            }
            before = Some(histogram);
        }
        bytes
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        Column::bytes_of(&self.labels, self.values.len()) + self.histogram_bytes()
    }

    /// Points in memory, a histogram counted as Prometheus does: one for each 16 bytes.
    pub fn size(&self) -> usize {
        let histograms = self.histograms.iter().flatten().flatten();
        self.values.iter().filter(|value| !is_absent(**value)).count()
            + histograms.map(|histogram| histogram_size(histogram)).sum::<usize>()
    }
}

/// How many samples a histogram counts as.
pub fn histogram_size(histogram: &Histogram) -> usize {
    8 + (histogram.positive.len() + histogram.negative.len()) / 2
}

/// Bytes of a histogram on the heap.
pub(crate) fn heap_bytes(histogram: &Histogram) -> usize {
    let buckets = histogram.positive.len() + histogram.negative.len();
    size_of::<Histogram>() + buckets * size_of::<series::histogram::BucketCount>()
}

/// Whether a label describes the metric: its name, type or unit.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | TYPE_LABEL | UNIT_LABEL)
}

/// Returns the labels without name, type and unit.
pub(crate) fn without_name(labels: &Labels) -> Labels {
    if !labels.iter().any(|(name, _)| is_metadata(name)) {
        return labels.clone();
    }
    Labels::from_sorted(labels.iter().filter(|(name, _)| !is_metadata(name)))
}

/// A histogram as a point.
pub(crate) fn histogram_point(histogram: Histogram) -> Point {
    Point::Histogram(Arc::new(histogram))
}

/// The value of a query at each time of its grid.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryValue {
    Scalar(Vec<f64>),
    String(String),
    /// In no order that means anything, unless the query sorts.
    Vector(Vec<Column>),
    /// Of a range selector, at one time.
    Matrix(Vec<SelectedSeries>),
}

impl QueryValue {
    /// Samples in memory, as Prometheus counts them.
    pub(crate) fn samples(&self) -> usize {
        match self {
            QueryValue::Scalar(values) => values.len(),
            QueryValue::String(_) => 0,
            QueryValue::Vector(columns) => columns.iter().map(Column::size).sum(),
            QueryValue::Matrix(series) => series.iter().map(SelectedSeries::size).sum(),
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            QueryValue::Scalar(values) => values.capacity() * size_of::<f64>(),
            QueryValue::String(text) => text.capacity(),
            QueryValue::Vector(columns) => columns.iter().map(Column::bytes).sum(),
            QueryValue::Matrix(series) => series.iter().map(SelectedSeries::bytes).sum(),
        }
    }

    /// The elements of a vector at one time, or a scalar as one without labels; None for other kinds.
    pub fn into_elements(self) -> Option<Vec<(Labels, Value)>> {
        match self {
            QueryValue::Scalar(values) => Some(vec![(Labels::empty(), Value::Float(values[0]))]),
            QueryValue::Vector(columns) => {
                let element = |column: Column| column.point(0).map(|point| (column.labels, point.into()));
                Some(columns.into_iter().filter_map(element).collect())
            }
            QueryValue::String(_) | QueryValue::Matrix(_) => None,
        }
    }
}
