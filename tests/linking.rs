//! The operator's command runs where there is no DPDK, although it comes from the same library as the director.
//!
//! The linker keeps only libraries that something live refers to (`--as-needed`, `--gc-sections`, both rustc's own
//! choice): so nothing that `drover` can reach may call into `drover::dpdk`.
#![cfg(feature = "dpdk")]

use std::process::Command;

fn libraries(program: &str) -> String {
    let output = Command::new("ldd").arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_needs_no_dpdk() {
    let libraries = libraries(env!("CARGO_BIN_EXE_drover"));
    assert!(libraries.contains("libc.so") && !libraries.contains("librte"), "{libraries}");
}
