//! What the project asks of its own source, and no compiler does.
//!
//! To add a rule: write a function `fn(&Source) -> Vec<Complaint>` that looks at one file, put it into [`RULES`], and
//! add a sample that it refuses to [`every_rule_refuses_what_it_is_there_for`]. To let a module import another one, or a
//! file read the clock, add it to [`IMPORTS`] or [`CLOCK_OWNERS`]: the change is then seen in review. A rule about a
//! module that does not exist yet holds from the day it does.

use std::fs;
use std::path::Path;

/// Each module of the crate that is bound, and those that it may import. Who is not listed may import everything.
/// The order is that of ARCHITECTURE.md: packet ← service, flow ← forward ← director ← worker.
const IMPORTS: &[(&str, &[&str])] = &[
    ("verdict", &[]),
    ("clock", &[]),
    ("packet", &["verdict"]),
    // Beside DPDK and the kernel; they know frames and addresses and nothing of what is done with them.
    ("sys", &["packet", "clock"]),
    ("dpdk", &["packet", "clock", "sys", "verdict"]),
    ("sim", &["packet", "clock", "verdict"]),
    ("config", &["packet"]),
    // Of the configuration only its checked words: no file, no parser, no preflight.
    ("service", &["packet", "verdict", "clock", "config"]),
    ("flow", &["packet", "verdict", "clock", "service", "sys"]),
    ("counters", &["verdict", "flow", "service"]),
    ("forward", &["packet", "verdict", "service", "flow"]),
    ("director", &["packet", "verdict", "clock", "config", "service", "flow", "forward", "counters"]),
    ("worker", &["packet", "verdict", "clock", "service", "flow", "forward", "counters", "director", "sys", "config"]),
    ("preflight", &["config", "packet", "sys"]),
];

/// Whom a frame passes: nothing there may panic.
const PACKET_PATH: &[&str] =
    &["src/packet/", "src/service/", "src/flow/", "src/forward/", "src/director", "src/worker", "src/verdict.rs"];

/// Everywhere else time is an argument.
const CLOCK_OWNERS: &[&str] = &[
    "src/clock.rs",
    "src/worker/thread.rs",
    "src/manage/run.rs",
    "src/daemon",
    "src/lab/",
    "src/cli/",
    "src/control/client.rs",
    "src/control/line.rs",
    "src/control/server.rs",
];

const UNSAFE_PLACES: &[&str] = &["src/dpdk/", "src/sys/", "dpdk-sys/"];
/// Where a module is opened to `unsafe`.
const UNSAFE_DOORS: &[&str] = &["src/lib.rs", "src/sys/mod.rs", "src/dpdk/mod.rs", "dpdk-sys/src/lib.rs"];

const LONGEST_FUNCTION: usize = 70;
/// The worker's loop is read more often than anything else.
const LONGEST_IN_WORKER: usize = 60;
/// Functions that are longer, and how long they are. This list only gets shorter: `("src/a.rs", "name", 84)`.
const RATCHET: &[(&str, &str, usize)] = &[];

type Rule = fn(&Source) -> Vec<Complaint>;
const RULES: &[Rule] = &[
    imports_point_one_way,
    unsafe_has_its_place_and_its_reason,
    clocks_have_owners,
    functions_are_short,
    path_never_panics,
    nothing_is_left_for_later,
];

#[derive(Debug)]
struct Complaint {
    line: usize,
    what: String,
}

/// One file. `code` is its text without comments and without what is in quotes, `shipped` also without tests; both
/// keep the lines.
struct Source {
    path: String,
    text: String,
    code: String,
    shipped: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { without_words(text) } else { String::new() };
        let is_test = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let shipped = if is_test { String::new() } else { without_tests(&code) };
        Source { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// The module of the crate that the file is, or is in.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split('/').next().map(|first| first.strip_suffix(".rs").unwrap_or(first))
    }
}

#[test]
fn the_source_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    let mut files = 0;
    for top in
        ["src", "tests", "perf", "conf", "dpdk-sys", ".ci", "build.rs", "Makefile", "README.md", "ARCHITECTURE.md"]
    {
        for path in files_below(&root.join(top)) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let source = Source::new(&name, &text);
            for rule in RULES {
                let found = rule(&source).into_iter();
                complaints.extend(found.map(|complaint| format!("{name}:{}: {}", complaint.line, complaint.what)));
            }
            files += 1;
        }
    }
    assert!(files > 20, "only {files} files were found");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name() != "target" {
            files.extend(files_below(&entry.path()));
        }
    }
    files.sort();
    files
}

fn imports_point_one_way(source: &Source) -> Vec<Complaint> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return Vec::new();
    };
    let mut complaints = Vec::new();
    for (at, imported) in imports(source) {
        if imported != module && !allowed.contains(&imported.as_str()) {
            let what = format!("{module} must not import {imported}, only {allowed:?}");
            complaints.push(Complaint { line: line_of(&source.shipped, at), what });
        }
    }
    complaints
}

/// The crate's modules that are named in a file, and where.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let is_root = source.path.matches('/').count() == 1 || source.path.ends_with("/mod.rs");
    let upwards = if is_root { "super::" } else { "super::super::" };
    let mut found = Vec::new();
    for prefix in ["crate::", upwards] {
        for (at, _) in source.shipped.match_indices(prefix) {
            let rest = &source.shipped[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => first_names(group),
                None => vec![name_at(rest)],
            };
            let modules = names.into_iter().filter(|name| !name.is_empty() && *name != "super");
            found.extend(modules.map(|name| (at, name.to_owned())));
        }
    }
    found
}

/// `a::b, c::{d, e}, f}` → a, c, f.
fn first_names(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut begins = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !letter.is_whitespace() => {
                names.push(name_at(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at(text: &str) -> &str {
    let end = text.find(|letter: char| !is_word(letter)).unwrap_or(text.len());
    &text[..end]
}

fn unsafe_has_its_place_and_its_reason(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for at in words(&source.code, "unsafe_code") {
        let opens = source.code[..at].ends_with("allow(") || source.code[..at].ends_with("expect(");
        if opens && !UNSAFE_DOORS.contains(&source.path.as_str()) {
            complaints
                .push(Complaint { line: line_of(&source.code, at), what: "unsafe_code is not allowed here".into() });
        }
    }
    for at in words(&source.code, "unsafe") {
        let line = line_of(&source.code, at);
        if !source.is_in(UNSAFE_PLACES) {
            complaints.push(Complaint { line, what: format!("unsafe belongs into {UNSAFE_PLACES:?}") });
        } else if needs_reason(&source.code[at..]) && !has_reason(&lines, line) {
            complaints
                .push(Complaint { line, what: "unsafe without a SAFETY: reason in the three lines above".into() });
        }
    }
    complaints
}

/// Blocks and impls do; the type of a function pointer does not.
fn needs_reason(code: &str) -> bool {
    let rest = code["unsafe".len()..].trim_start();
    rest.starts_with('{') || name_at(rest) == "impl"
}

/// In the line itself or the three above; a comment that reaches into them counts from its beginning.
fn has_reason(lines: &[&str], line: usize) -> bool {
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let mut first = line.saturating_sub(4);
    while first > 0 && is_comment(lines[first]) && is_comment(lines[first - 1]) {
        first -= 1;
    }
    lines[first..line].iter().any(|line| line.contains("SAFETY:"))
}

fn clocks_have_owners(source: &Source) -> Vec<Complaint> {
    if source.is_in(CLOCK_OWNERS) || !source.path.starts_with("src/") {
        return Vec::new();
    }
    let clocks = ["Instant::now", "SystemTime::now", "UNIX_EPOCH.elapsed", "clock_gettime"];
    let mut complaints = Vec::new();
    for clock in clocks {
        for (at, _) in source.shipped.match_indices(clock) {
            let what = format!("{clock}: time is an argument; the clock is read in {CLOCK_OWNERS:?}");
            complaints.push(Complaint { line: line_of(&source.shipped, at), what });
        }
    }
    complaints
}

fn functions_are_short(source: &Source) -> Vec<Complaint> {
    let limit = if source.is_in(&["src/worker"]) { LONGEST_IN_WORKER } else { LONGEST_FUNCTION };
    let mut complaints = Vec::new();
    for (line, name, length) in functions(&source.shipped) {
        let known = RATCHET.iter().find(|(path, known, _)| *path == source.path && *known == name);
        let allowed = known.map_or(limit, |(.., length)| *length);
        if length > allowed {
            complaints.push(Complaint { line, what: format!("fn {name} has {length} lines, more than {allowed}") });
        } else if known.is_some() && length < allowed {
            complaints
                .push(Complaint { line, what: format!("fn {name} got shorter: its place in RATCHET is {length}") });
        }
    }
    complaints
}

/// Line, name and length of each function that has a body.
fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let name = name_at(code[at + 2..].trim_start());
        let Some(body) = body_of(&code[at..]) else { continue };
        if !name.is_empty() {
            let line = line_of(code, at);
            found.push((line, name, line_of(code, at + body) - line + 1));
        }
    }
    found
}

/// Where a function's last brace is; none for one that is only declared.
fn body_of(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in code.char_indices() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return closing_brace(&code[at..]).map(|end| at + end),
            _ => {}
        }
    }
    None
}

fn closing_brace(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn path_never_panics(source: &Source) -> Vec<Complaint> {
    if !source.is_in(PACKET_PATH) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for panic in [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "unreachable!"] {
        for (at, _) in source.shipped.match_indices(panic) {
            let what = format!("{panic} on the way of a packet");
            complaints.push(Complaint { line: line_of(&source.shipped, at), what });
        }
    }
    complaints
}

fn nothing_is_left_for_later(source: &Source) -> Vec<Complaint> {
    // Written in halves, or this file would complain of itself.
    let mut complaints = Vec::new();
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
        for at in words(&source.text, mark) {
            let what = format!("{mark}: finish it, or write an issue");
            complaints.push(Complaint { line: line_of(&source.text, at), what });
        }
    }
    complaints
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where a whole word is.
fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Comments and the contents of quotes become spaces; line ends stay.
fn without_words(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = skipped(&letters, at);
        if end == at {
            code.push(letters[at]);
            at += 1;
        } else {
            code.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or the literal that begins here ends; `at` itself when none does.
fn skipped(letters: &[char], at: usize) -> usize {
    let next = letters.get(at + 1).copied();
    let in_word = at > 0 && is_word(letters[at - 1]);
    match letters[at] {
        '/' if next == Some('/') => line_end(letters, at),
        '/' if next == Some('*') => comment_end(letters, at),
        '"' => quote_end(letters, at),
        '\'' => letter_end(letters, at),
        'r' if !in_word => raw_end(letters, at),
        'b' if !in_word && next == Some('r') => match raw_end(letters, at + 1) {
            end if end == at + 1 => at,
            end => end,
        },
        _ => at,
    }
}

fn line_end(letters: &[char], at: usize) -> usize {
    (at..letters.len()).find(|at| letters[*at] == '\n').unwrap_or(letters.len())
}

fn comment_end(letters: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut at = at;
    while at < letters.len() {
        match (letters[at], letters.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 1;
            }
            ('*', Some('/')) if depth == 1 => return at + 2,
            ('*', Some('/')) => {
                depth -= 1;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

fn quote_end(letters: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < letters.len() && letters[end] != '"' {
        end += if letters[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(letters.len())
}

/// `'a'` and `'\n'` are letters, `'a` is a lifetime.
fn letter_end(letters: &[char], at: usize) -> usize {
    match (letters.get(at + 1), letters.get(at + 2)) {
        (Some('\\'), _) => {
            let close = (at + 3..letters.len()).find(|at| letters[*at] == '\'');
            close.map_or(letters.len(), |close| close + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

fn raw_end(letters: &[char], at: usize) -> usize {
    let hashes = letters[at + 1..].iter().take_while(|letter| **letter == '#').count();
    if letters.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let closes = |end: &usize| {
        letters[*end] == '"'
            && letters[end + 1..].iter().take(hashes).filter(|letter| **letter == '#').count() == hashes
    };
    (at + 2 + hashes..letters.len()).find(closes).map_or(letters.len(), |end| end + 1 + hashes)
}

/// Without what is behind `#[cfg(test)]`: up to the closing brace, or to the semicolon of what has none.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut shipped = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, item) = rest.split_at(at);
        shipped.push_str(before);
        let brace = item.find('{').unwrap_or(item.len());
        let end = match item.find(';').filter(|semicolon| *semicolon < brace) {
            Some(semicolon) => semicolon,
            None => brace + item.get(brace..).and_then(closing_brace).unwrap_or(0),
        };
        let end = (end + 1).min(item.len());
        shipped.extend(item[..end].chars().filter(|letter| *letter == '\n'));
        rest = &item[end..];
    }
    shipped + rest
}

#[test]
fn every_rule_refuses_what_it_is_there_for() {
    let long = |lines: usize| format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2));
    let (long_60, long_61, long_70, long_71) = (long(60), long(61), long(70), long(71));
    let later = concat!("// TO", "DO: more\n");
    let samples: &[(Rule, &str, &str, usize)] = &[
        (imports_point_one_way, "src/packet/a.rs", "use crate::packet::b;\nuse crate::flow::Pin;\n", 1),
        (imports_point_one_way, "src/flow/a.rs", "use crate::{clock::{Now, Then}, worker::Worker, service};\n", 1),
        (imports_point_one_way, "src/flow/a.rs", "fn f() { super::super::manage::g() }\n", 1),
        (
            imports_point_one_way,
            "src/director.rs",
            "use super::manage;\n// crate::worker\nconst A: &str = \"crate::worker\";\n",
            1,
        ),
        (
            imports_point_one_way,
            "src/director.rs",
            "#[cfg(test)]\nmod tests {\n use super::*; use crate::sim::A;\n}\n",
            0,
        ),
        (imports_point_one_way, "src/daemon.rs", "use crate::worker;\n", 0),
        (unsafe_has_its_place_and_its_reason, "src/flow/a.rs", "fn f() { unsafe { g() } }\n", 1),
        (unsafe_has_its_place_and_its_reason, "src/flow/a.rs", "#[allow(unsafe_code)]\nmod b;\n", 1),
        (
            unsafe_has_its_place_and_its_reason,
            "src/sys/a.rs",
            "// SAFETY: long ago.\n\n\n\nfn f() { unsafe { g() } }\n",
            1,
        ),
        (
            unsafe_has_its_place_and_its_reason,
            "src/sys/a.rs",
            "// SAFETY: it\n// is\n// very\n// safe.\nunsafe impl Send for A {}\n",
            0,
        ),
        (unsafe_has_its_place_and_its_reason, "src/sys/a.rs", "unsafe impl Send for A {}\n", 1),
        (unsafe_has_its_place_and_its_reason, "src/sys/a.rs", "type F = unsafe fn();\n", 0),
        (clocks_have_owners, "src/director.rs", "fn f() { let now = std::time::Instant::now(); }\n", 1),
        (clocks_have_owners, "src/manage/arp.rs", "fn f() { SystemTime::now(); }\n", 1),
        (clocks_have_owners, "src/daemon.rs", "fn f() { Instant::now(); }\n", 0),
        (functions_are_short, "src/cli/a.rs", &long_71, 1),
        (functions_are_short, "src/cli/a.rs", &long_70, 0),
        (functions_are_short, "src/worker/a.rs", &long_61, 1),
        (functions_are_short, "src/worker/a.rs", &long_60, 0),
        (path_never_panics, "src/flow/a.rs", "fn f() { a.unwrap(); b.expect(\"no\"); panic!() }\n", 3),
        (path_never_panics, "src/flow/a.rs", "#[cfg(test)]\nuse a::b;\nfn f() { a.unwrap_or(1); } // .unwrap()\n", 0),
        (path_never_panics, "src/lab/a.rs", "fn f() { unreachable!() }\n", 0),
        (nothing_is_left_for_later, "conf/a.toml", later, 1),
    ];
    for (rule, path, text, expected) in samples {
        let complaints = rule(&Source::new(path, text));
        assert_eq!(complaints.len(), *expected, "{path}\n{text}\n{complaints:#?}");
    }
}

#[test]
fn quotes_and_comments_are_not_code() {
    let text =
        "a(\"x\\\"y\", 'z', '\\'', b\"c\", r#\"d\"e\"#, br\"f\"); /* g /* h */ i */ fn j<'k>(l: &'k str) {} // m\nn";
    let code = without_words(text);
    assert_eq!(code.split_whitespace().collect::<String>(), "a(,,,b,,);fnj<'k>(l:&'kstr){}n");
    assert_eq!(code.chars().count(), text.chars().count());
    let tests = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod c;\nfn d() {}\n";
    assert_eq!(without_tests(tests), "fn a() {}\n\n\n\n\n\n\nfn d() {}\n");
    assert_eq!(functions("fn a(b: [u8; 4]) -> [u8; 2]\nwhere\n  C: D,\n{\n}\nfn e();\n"), [(1, "a", 5)]);
}
