//! The real servers: an nginx on each that says who it is.

use std::fs;
use std::time::Duration;

use super::error::{Result, doing, output, wait_for};
use super::network::{self, CLIENT, REALS};
use super::{Lab, VIP};

pub fn start(lab: &Lab) -> Result<()> {
    for real in REALS {
        serve(lab, real, &[&format!("{}:80", network::address(real)), &format!("{VIP}:80")])?;
    }
    for real in REALS {
        wait_for(Duration::from_secs(10), &format!("nginx on {real}"), || ask(lab, real))?;
    }
    Ok(())
}

/// An nginx on `host` that listens there and answers with the host's name.
pub fn serve(lab: &Lab, host: &str, listen: &[&str]) -> Result<()> {
    let directory = lab.path().join(host);
    fs::create_dir(&directory).map_err(doing(directory.display()))?;
    fs::write(directory.join("nginx.conf"), configuration(host, listen)).map_err(doing(directory.display()))?;
    let mut nginx = lab.command(host, "nginx");
    nginx.arg("-p").arg(&directory).args(["-e", "error.log", "-c", "nginx.conf"]);
    output(&mut nginx, &format!("nginx on {host} (package nginx-light)")).map(drop)
}

fn ask(lab: &Lab, real: &str) -> std::result::Result<(), String> {
    let url = format!("http://{}/", network::address(real));
    let mut curl = lab.command(CLIENT, "curl");
    curl.args(["-sS", "--max-time", "2", &url]);
    match output(&mut curl, "curl") {
        Ok(body) if body.trim() == real => Ok(()),
        Ok(body) => Err(format!("it says {body:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// One process, and root's: an ordinary user's namespace knows no other user to change to.
fn configuration(name: &str, listen: &[&str]) -> String {
    let listen: String = listen.iter().map(|address| format!("        listen {address} backlog=1024;\n")).collect();
    format!(
        "user root;
daemon on;
master_process off;
pid nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
{listen}        add_header X-Real {name} always;
        return 200 \"{name}\\n\";
    }}
}}
"
    )
}
