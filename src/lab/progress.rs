//! A progress bar, on a terminal only.

use std::io::{IsTerminal, Write, stderr};

const WIDTH: u64 = 40;

pub struct Progress {
    total: u64,
    done: u64,
    /// What is drawn: it is drawn anew only when it changes.
    filled: Option<u64>,
    visible: bool,
}

impl Progress {
    pub fn new(total: u64) -> Progress {
        let mut progress = Progress { total, done: 0, filled: None, visible: stderr().is_terminal() };
        progress.draw();
        progress
    }

    pub fn step(&mut self) {
        self.done += 1;
        self.draw();
    }

    fn draw(&mut self) {
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100).min(100);
        if !self.visible || self.filled == Some(percent) {
            return;
        }
        self.filled = Some(percent);
        let _ = write!(stderr(), "\r{} ", bar(self.done, self.total, percent));
    }
}

impl Drop for Progress {
    /// Leaves an empty line: what follows is the result.
    fn drop(&mut self) {
        if self.visible {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: u64, total: u64, percent: u64) -> String {
    let filled = (percent * WIDTH / 100) as usize;
    let empty = WIDTH as usize - filled;
    format!("[{}{}] {done} of {total} requests", "#".repeat(filled), " ".repeat(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_keeps_its_width() {
        assert_eq!(bar(0, 1000, 0), format!("[{}] 0 of 1000 requests", " ".repeat(40)));
        assert_eq!(bar(1000, 1000, 100), format!("[{}] 1000 of 1000 requests", "#".repeat(40)));
        assert_eq!(bar(500, 1000, 50), format!("[{}{}] 500 of 1000 requests", "#".repeat(20), " ".repeat(20)));
    }
}
