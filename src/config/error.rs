//! Mistakes in a configuration file: all of them at once, each with its place.

use std::fmt;

/// More than this nobody reads, and nobody can make us hold.
const MOST_MISTAKES: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line and column, both from one; none when the file as a whole is meant.
    pub place: Option<(usize, usize)>,
    /// The key's path, such as `service[0].real[1].weight`; empty when there is none.
    pub key: String,
    pub message: String,
}

/// Why a file was refused. Prints one line for each mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub file: String,
    pub mistakes: Vec<Mistake>,
    /// So many more were found than are listed.
    pub more: usize,
}

impl ConfigErrors {
    pub(super) fn whole_file(file: &str, message: String) -> ConfigErrors {
        let mistake = Mistake { place: None, key: String::new(), message };
        ConfigErrors { file: file.to_owned(), mistakes: vec![mistake], more: 0 }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{}:{mistake}", self.file)?;
        }
        if self.more > 0 {
            write!(f, "\n{}: and {} more", self.file, self.more)?;
        }
        Ok(())
    }
}

/// `12:3: service[0].tcp: …`, or what there is of it.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// What is allowed, but most likely not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(pub Vec<String>);

impl Warnings {
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects mistakes by their place in the text.
pub(super) struct Mistakes<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    found: Vec<(usize, String, String)>,
    warned: Vec<(usize, String, String)>,
    more: usize,
}

impl<'t> Mistakes<'t> {
    pub fn new(text: &'t str) -> Mistakes<'t> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Mistakes { text, line_starts, found: Vec::new(), warned: Vec::new(), more: 0 }
    }

    /// Notes a mistake at byte `at`.
    pub fn add(&mut self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        if self.found.len() < MOST_MISTAKES {
            self.found.push((at, key.into(), message.into()));
        } else {
            self.more += 1;
        }
    }

    /// Notes what is allowed at byte `at`, but most likely not meant.
    pub fn warn(&mut self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        if self.warned.len() < MOST_MISTAKES {
            self.warned.push((at, key.into(), message.into()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.line_starts[line - 1];
        let before = self.text.as_bytes().get(start..at).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }

    /// Of what no file says: in the order in which they were found.
    pub fn into_unplaced(self) -> Vec<Mistake> {
        self.found.into_iter().map(|(_, key, message)| Mistake { place: None, key, message }).collect()
    }

    pub fn into_warnings(mut self, file: &str) -> Warnings {
        let mut warned = std::mem::take(&mut self.warned);
        warned.sort_by_key(|(at, ..)| *at);
        let line = |(at, key, message): (usize, String, String)| {
            let mistake = Mistake { place: Some(self.place(at)), key, message: format!("warning: {message}") };
            format!("{file}:{mistake}")
        };
        Warnings(warned.into_iter().map(line).collect())
    }

    /// In the order of the file.
    pub fn into_errors(mut self, file: &str) -> ConfigErrors {
        let mut found = std::mem::take(&mut self.found);
        found.sort_by_key(|(at, ..)| *at);
        let mistake = |(at, key, message)| Mistake { place: Some(self.place(at)), key, message };
        ConfigErrors { file: file.to_owned(), mistakes: found.into_iter().map(mistake).collect(), more: self.more }
    }
}
