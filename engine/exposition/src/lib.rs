//! Exposition formats: the plain text parser, the template scan that replaces it on known payloads, and the encoder.
