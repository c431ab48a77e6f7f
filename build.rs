//! Stamps the commit. An unsupported DPDK has been refused by then: dpdk-sys is built first, and only with the feature
//! `dpdk`; its build script names the remedy.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    watch_head();
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=DROVER_COMMIT={commit}");
}

/// A commit moves the branch that HEAD names; changing branches moves HEAD. In a work tree of its own, git knows where
/// they are.
fn watch_head() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]);
        // A path that does not exist would make cargo run this every time.
        if let Some(path) = path.filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
