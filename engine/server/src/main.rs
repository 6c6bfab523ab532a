//! The program ringscrape.
fn main() {}
