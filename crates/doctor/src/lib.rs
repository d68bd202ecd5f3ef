//! What this host can do, and the remedy for each thing missing.

#![forbid(unsafe_code)]
