//! What the documents show is what happens. `DROVER_UPDATE_DOCS=1 cargo test --test control documents` writes it anew.

use std::fs;
use std::path::PathBuf;

use crate::director::Running;

fn document(name: &str) -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

fn compare(path: PathBuf, shown: &str, real: &str) {
    if std::env::var_os("DROVER_UPDATE_DOCS").is_some() {
        fs::write(&path, real).unwrap();
        return;
    }
    for (number, (shown, real)) in shown.lines().zip(real.lines()).enumerate() {
        assert_eq!(shown, real, "{}:{}", path.display(), number + 1);
    }
    assert_eq!(shown, real, "{}", path.display());
}

/// Every `console` block: its first line is the command, the rest its output.
#[test]
fn each_command_prints_what_the_document_shows() {
    let director = Running::fixed();
    let (path, shown) = document("commands.md");
    let mut real = String::new();
    let mut commands = Vec::new();
    let mut lines = shown.lines();
    while let Some(line) = lines.next() {
        real += &format!("{line}\n");
        if line == "```console" {
            let command = lines.next().unwrap();
            real += &format!("{command}\n{}```\n", output(&director, command));
            lines.by_ref().find(|line| *line == "```").unwrap();
            commands.push(command.to_string());
        }
    }
    for verb in ["service add", "service edit", "service delete", "real add", "real edit", "real delete", "reload"] {
        assert!(
            commands.iter().any(|command| command.starts_with(&format!("$ drover {verb} "))),
            "{verb} is not shown"
        );
    }
    for verb in ["status", "service list", "conn list", "timeouts", "stats", "stats --per-core", "stop"] {
        assert!(commands.iter().any(|command| command == &format!("$ drover {verb}")), "{verb} is not shown");
        let json = format!("$ drover {verb} --json");
        assert!(commands.iter().any(|command| command.starts_with(&json)), "{verb} --json is not shown");
    }
    compare(path, &shown, &real);
}

fn output(director: &Running, command: &str) -> String {
    let arguments: Vec<&str> = command.strip_prefix("$ drover ").unwrap().split(' ').collect();
    if arguments[0] == "stop" {
        return stopped(&arguments);
    }
    let output = director.drover(&arguments);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A director of its own, which ends when it is told to.
fn stopped(arguments: &[&str]) -> String {
    let output = crate::socket::stopping_director(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every line after an arrow to the right is sent as it stands, and answered by the line after the arrow to the left.
#[test]
fn each_exchange_is_what_the_document_shows() {
    let director = Running::fixed();
    let (path, shown) = document("control-socket.md");
    let mut real = String::new();
    let mut answer = None;
    for line in shown.lines() {
        if let Some(request) = line.strip_prefix("→ ") {
            answer = Some(director.connect().exchange(request));
        }
        match line.starts_with("← ") {
            true => real += &format!("← {}\n", answer.take().expect("an answer follows its request")),
            false => real += &format!("{line}\n"),
        }
    }
    for verb in ["status", "service list", "conn list", "stats", "timeouts", "reload", "config show", "stop"] {
        assert!(shown.contains(&format!("→ {{\"v\":1,\"verb\":\"{verb}\"")), "{verb} is not shown");
    }
    for verb in ["service add", "service edit", "service delete", "real add", "real edit", "real delete"] {
        assert!(shown.contains(&format!("→ {{\"v\":1,\"verb\":\"{verb}\",\"service\":")), "{verb} is not shown");
    }
    compare(path, &shown, &real);
}
