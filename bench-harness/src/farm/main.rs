//! The farm: thousands of scrape targets served by one process.
fn main() {}
