//! Bindings to the system's DPDK, which pkg-config knows.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const REMEDY: &str = "install it (Debian: apt install libdpdk-dev pkg-config libclang-dev), or build with \
                      --no-default-features, which leaves DPDK out";

/// Only what is used: no driver (EAL loads those when it starts).
const LIBRARIES: &[&str] = &["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_hash", "rte_eal"];

const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_hotplug_(add|remove)",
    "rte_version",
    "rte_strerror",
    "rte_thread_(register|unregister)",
    "rte_openlog_stream",
    "rte_log_cur_msg_loglevel",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_[rt]x_queue_setup",
    "rte_eth_dev_(start|stop|close)",
    "rte_eth_dev_(set|get)_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_allmulticast_enable",
    "rte_eth_stats_get",
    "rte_eth_dev_rss_(hash_update|hash_conf_get|reta_update|reta_query)",
    "rte_eth_[rt]x_burst",
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_(alloc|free)",
    "rte_mempool_free",
    "rte_mempool_(avail|in_use)_count",
    "rte_hash_(create|free|add_key|del_key|lookup_bulk)",
    "rte_rdtsc",
    "rte_get_tsc_hz",
    "drover_.*",
];

const CONSTANTS: &[&str] = &["DROVER_.*", "RTE_ETH_NAME_MAX_LEN", "RTE_VER_(YEAR|MONTH)", "RTE_MAX_LCORE"];

fn main() {
    println!("cargo::rerun-if-changed=wrapper.h");
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let version = pkg_config(&["--modversion"]);
    refuse_unsupported(&version);
    let flags: Vec<String> = pkg_config(&["--cflags"]).split_whitespace().map(str::to_owned).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    generate(&flags, &out);
    compile(&flags, &out);
    for path in pkg_config(&["--libs-only-L"]).split_whitespace() {
        println!("cargo::rustc-link-search=native={}", path.trim_start_matches("-L"));
    }
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    println!("cargo::metadata=version={version}");
}

fn pkg_config(arguments: &[&str]) -> String {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&program).args(arguments).arg("libdpdk").output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => refuse(&format!("DPDK is not found: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => refuse(&format!("DPDK is not found: cannot run {program}: {error}")),
    }
}

fn refuse_unsupported(version: &str) {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < (22, 11) {
        refuse(&format!("DPDK {version} is too old: 22.11 or newer is needed"));
    }
}

fn refuse(what: &str) -> ! {
    println!("cargo::error={what}; {REMEDY}");
    std::process::exit(1)
}

fn generate(flags: &[String], out: &std::path::Path) {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(flags)
        .wrap_static_fns(true)
        .wrap_static_fns_path(out.join("inlines.c"))
        // Ours, with the fields that are read for each packet; its layout is pinned in lib.rs.
        .blocklist_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_device")
        .opaque_type("rte_hash")
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .prepend_enum_name(false)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    let bindings = builder.generate().unwrap_or_else(|error| refuse(&format!("bindgen failed: {error}")));
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written");
}

/// Always optimised: these are the calls of the packet path.
fn compile(flags: &[String], out: &std::path::Path) {
    let mut build = cc::Build::new();
    build.file(out.join("inlines.c")).include(".").opt_level(3).warnings(false);
    for flag in flags {
        build.flag(flag);
    }
    build.compile("drover_dpdk_inlines");
    println!("cargo::rerun-if-changed=tests/layout.c");
    let mut build = cc::Build::new();
    build.file("tests/layout.c");
    for flag in flags {
        build.flag(flag);
    }
    build.compile("drover_dpdk_layout");
}
