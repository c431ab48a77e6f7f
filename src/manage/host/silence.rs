//! An `af_packet` interface has the kernel behind it, which answers too: every ping twice, and a reset for every
//! connection. So all that comes in is dropped before the kernel's protocols see it; packet sockets come before that.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::check_name;

const PREFIX: &str = "drover_";

/// The table's name: other bytes than letters and digits are written in hexadecimal.
pub fn table(interface: &str) -> String {
    interface.bytes().fold(PREFIX.to_owned(), |name, byte| match byte {
        byte if byte.is_ascii_alphanumeric() => name + &char::from(byte).to_string(),
        byte => format!("{name}_{byte:02x}"),
    })
}

/// Once or twice makes no difference.
pub fn drop_all(interface: &str) -> io::Result<()> {
    check_name(interface)?;
    let table = table(interface);
    nft(&format!(
        "add table netdev {table}\n\
         delete table netdev {table}\n\
         table netdev {table} {{\n\
         chain ingress {{ type filter hook ingress device \"{interface}\" priority -500; policy drop; }}\n\
         }}\n"
    ))
}

/// A table that does not exist, or whose interface has gone, is fine.
pub fn remove(table: &str) -> io::Result<()> {
    if !table.starts_with(PREFIX) || !table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("\"{table}\" is no table of ours")));
    }
    nft(&format!("add table netdev {table}\ndelete table netdev {table}\n"))
}

fn nft(script: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let remedy = "nft is needed to silence the kernel behind an af_packet interface: apt install nftables";
            io::Error::new(io::ErrorKind::NotFound, remedy)
        }
        _ => error,
    })?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft refused: {}", said.lines().next().unwrap_or("no reason given"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_names_of_their_own() {
        assert_eq!(table("eth1"), "drover_eth1");
        assert_eq!(table("a-b.c"), "drover_a_2db_2ec");
        assert_ne!(table("a-b"), table("a.b"));
    }

    #[test]
    fn only_our_own_tables_are_removed() {
        for name in ["filter", "drover_x; flush ruleset", "drover_x\nflush ruleset", ""] {
            assert_eq!(remove(name).unwrap_err().kind(), io::ErrorKind::InvalidData, "{name:?}");
        }
    }
}
