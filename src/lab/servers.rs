//! The real servers: an nginx on each that says who it is.

use std::fs;
use std::time::Duration;

use super::error::{Result, doing, output, wait_for};
use super::network::{self, CLIENT, REALS};
use super::{Lab, VIP};

pub fn start(lab: &Lab) -> Result<()> {
    for real in REALS {
        let directory = lab.path().join(real);
        fs::create_dir(&directory).map_err(doing(directory.display()))?;
        fs::write(directory.join("nginx.conf"), configuration(real)).map_err(doing(directory.display()))?;
        let mut nginx = lab.command(real, "nginx");
        nginx.arg("-p").arg(&directory).args(["-e", "error.log", "-c", "nginx.conf"]);
        output(&mut nginx, &format!("nginx on {real} (package nginx-light)"))?;
    }
    for real in REALS {
        wait_for(Duration::from_secs(10), &format!("nginx on {real}"), || ask(lab, real))?;
    }
    Ok(())
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
fn configuration(real: &str) -> String {
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
        listen {address}:80 backlog=1024;
        listen {VIP}:80 backlog=1024;
        add_header X-Real {real} always;
        return 200 \"{real}\\n\";
    }}
}}
",
        address = network::address(real)
    )
}
