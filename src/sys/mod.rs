//! What else needs `unsafe`, each module safe outside.

#[allow(unsafe_code)]
pub mod netdev;
