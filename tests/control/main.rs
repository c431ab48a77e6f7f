//! The config socket and the operator's command, against a director that is only its answers.

mod commands;
mod director;
mod documents;
mod hostile;
mod protocol;
mod socket;
