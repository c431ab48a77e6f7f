//! The config socket and the operator's command, against a director that is only its answers.

mod changes;
mod commands;
mod director;
mod documents;
mod hostile;
mod live;
mod protocol;
mod socket;
