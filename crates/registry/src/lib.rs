//! Client of the OCI distribution API, with credentials and mirrors.

#![forbid(unsafe_code)]
