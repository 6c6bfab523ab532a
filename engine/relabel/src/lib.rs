//! Relabelling rules compiled once, applied to targets and to series, and explained step by step.
