//! prometheus.yml read strictly into values that can run, or an error with file, line and advice.
