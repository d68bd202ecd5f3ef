//! What the command line prints: tables, Go templates, human times and sizes.

#![forbid(unsafe_code)]
