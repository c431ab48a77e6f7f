//! The few other places that need `unsafe`: each is safe from outside.

#[allow(unsafe_code)]
pub mod interfaces;
