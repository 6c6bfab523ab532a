//! One core at work: schedule, fetch, ingest, staleness, limits, report series.
